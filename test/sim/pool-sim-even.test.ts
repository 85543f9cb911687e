/** The other half of pool-sim-odd.test.ts, for the other core. */
import { testHalf } from './pool-sim-half.ts'

testHalf(2)
