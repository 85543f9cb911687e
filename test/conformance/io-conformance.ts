/**
 * Every promise of `src/io/io.ts`, as tests that run on any implementation. `makeIo` gives a fresh
 * Io and a folder of its own, and on demand what a second process would have: another Io on the
 * same world.
 */
import type { Test } from 'tap'
import type { Io, SocketAddress } from '../../src/io/io.ts'
import { fileConformance } from './io-conformance-files.ts'
import { socketConformance } from './io-conformance-sockets.ts'
import { turnConformance } from './io-conformance-turns.ts'

export interface IoUnderTest {
  io: Io
  /** An empty folder that exists. */
  folder: string
  /** A second Io on the same world; shut down by the suite. */
  another(): Promise<Io>
  /**
   * Connects to what `io` listens at with an ordinary client. Absent where the world has no
   * outside: then the socket tests are left out.
   */
  connect?: Connect
  /** Called after the Io has been shut down. */
  dispose(): Promise<void>
}

export type Connect = (address: SocketAddress) => Promise<Client>

/** The other end of a connection, driven by promises. */
export interface Client {
  /** Resolves when the bytes were taken. */
  write(bytes: Uint8Array): Promise<void>
  /** Exactly `lengthBytes`, or fewer at the end of the stream. */
  read(lengthBytes: number): Promise<Buffer>
  /** Ends the sending direction. */
  end(): void
  /** Drops the connection at once. */
  destroy(): void
}

export type MakeIo = () => Promise<IoUnderTest>

export async function ioConformance(t: Test, makeIo: MakeIo): Promise<void> {
  await t.test('files', (t) => fileConformance(t, makeIo))
  await t.test('turns', (t) => turnConformance(t, makeIo))
  await t.test('sockets', (t) => socketConformance(t, makeIo))
}
