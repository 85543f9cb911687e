/**
 * Node's module hooks that instrument what lies under `prefix` while it is loaded. Named on the
 * command line of a fuzzing job through `register.ts`.
 */
import type { LoadFnOutput, LoadHookContext } from 'node:module'
import type { Plant } from './instrument.ts'
import { instrument, plantInto } from './instrument.ts'

export interface LoaderData {
  /** URL of the compiled `src`. */
  prefix: string
  plant: Plant | null
}

type NextLoad = (
  url: string,
  context?: Partial<LoadHookContext>,
) => LoadFnOutput | Promise<LoadFnOutput>

let settings: LoaderData = { prefix: '\0', plant: null }

export function initialize(data: LoaderData): void {
  settings = data
}

export async function load(
  url: string,
  context: LoadHookContext,
  nextLoad: NextLoad,
): Promise<LoadFnOutput> {
  const loaded = await nextLoad(url, context)
  if (!url.startsWith(settings.prefix) || loaded.source === undefined) return loaded
  const source = loaded.source ?? ''
  let code = typeof source === 'string' ? source : Buffer.from(source as Uint8Array).toString()
  const { plant } = settings
  if (plant !== null && url.endsWith(plant.module)) code = plantInto(code, plant)
  return { ...loaded, source: instrument(code, url) }
}
