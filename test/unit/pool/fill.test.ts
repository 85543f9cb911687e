import t from 'tap'
import { MIB } from '../../../src/base/units.ts'
import { FillGauge } from '../../../src/pool/fill.ts'

const TOTAL = 1000 * MIB

t.test('warned once above the threshold, and not again until clearly below it', async (t) => {
  const gauge = new FillGauge(85)
  const states = [100, 149, 151, 149, 160, 199, 201, 149].map((freeMib) => {
    gauge.update(freeMib === 100 ? 500 * MIB : freeMib * MIB, TOTAL)
    return gauge.state
  })
  t.strictSame(states, ['ok', 'warn', 'warn', 'warn', 'warn', 'warn', 'ok', 'warn'])
})

t.test('a refused write makes it full until there is more room than it wanted', async (t) => {
  const gauge = new FillGauge(85)
  gauge.update(20 * MIB, TOTAL)
  gauge.noteRefused(32 * MIB)
  t.equal(gauge.state, 'full')
  gauge.update(32 * MIB, TOTAL)
  t.equal(gauge.state, 'full')
  gauge.update(34 * MIB, TOTAL)
  t.equal(gauge.state, 'warn')
})

t.test('what the disk refuses counts, whatever its figures say, until it takes it', async (t) => {
  const gauge = new FillGauge(85)
  gauge.update(500 * MIB, TOTAL)
  gauge.noteDisk(false)
  gauge.update(500 * MIB, TOTAL)
  t.equal(gauge.state, 'full')
  gauge.noteDisk(true)
  t.equal(gauge.state, 'ok')
  gauge.noteDisk(false)
  gauge.update(0, TOTAL)
  t.equal(gauge.percent, 100)
  gauge.update(200 * MIB, TOTAL)
  t.equal(gauge.state, 'warn', 'or has clearly more')
})
