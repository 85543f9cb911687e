/** The frame of most commands: come to the pool, do it, let go. */
import type { Command } from 'commander'
import type { PoolService } from '../api/service.ts'
import { globalOptions, mustPoolPath } from './arguments.ts'
import type { Cli } from './context.ts'
import { EXIT_INTERRUPTED } from './exit-codes.ts'

export async function withService<T>(
  cli: Cli,
  command: Command,
  work: (service: PoolService) => Promise<T>,
): Promise<T> {
  const poolPath = mustPoolPath(cli, command)
  const { openService } = await cli.loadBackend()
  const service = await openService(poolPath, globalOptions(command).io)
  try {
    return await work(service)
  } finally {
    await service.close()
  }
}

/** For work that takes long: the first interrupt cancels it cleanly, the second ends us at once. */
export async function interruptible<T>(
  cli: Cli,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  const interrupt = (): void => {
    if (controller.signal.aborted) cli.exitNow(EXIT_INTERRUPTED)
    controller.abort()
  }
  const undo = [cli.onSignal('SIGINT', interrupt), cli.onSignal('SIGTERM', interrupt)]
  try {
    return await work(controller.signal)
  } finally {
    for (const remove of undo) remove()
  }
}
