import { join } from 'node:path'
import { projectRoot } from '../../tools/project.ts'

/** A folder for each target: inputs that were findings once, or that lead where seeds do not. */
export const CORPUS_PATH: string = join(projectRoot, 'test/fuzz/corpus')
