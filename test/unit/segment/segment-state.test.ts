import t from 'tap'
import { AssertionError } from '../../../src/base/assert.ts'
import { SegmentState } from '../../../src/segment/segment-state.ts'

void t.test('I1: a slot that was given to a block is never given again', (t) => {
  const state = new SegmentState(7)
  state.beginTable()
  const words = Uint32Array.of(1, 2, 3, 4)
  state.setChecksums(10, 2, words, 0)
  t.throws(() => state.setChecksums(11, 1, words, 0), AssertionError)
  t.throws(() => state.setChecksums(5, 1, words, 0), AssertionError, 'the log only goes forward')
  state.setChecksums(12, 2, words, 0)
  state.beginTable()
  state.setChecksums(1, 1, words, 0)
  t.equal(state.pages[0]?.[2], 1, 'recovery fills a table from the start')
  t.end()
})
