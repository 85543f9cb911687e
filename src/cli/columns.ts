/** The columns of a table: what each shows to people, to `-p`, and to `--sort`. */
import { formatSize } from '../base/units.ts'

export interface Column<T> {
  /** Named by `--columns` and `--sort`. */
  readonly key: string
  readonly title: string
  readonly alignRight: boolean
  /** Shown without being asked for. */
  readonly usual: boolean
  text(row: T): string
  /** What `-p` shows: exact, and parsable. */
  exact(row: T): string
  order(row: T): string | number
}

interface Look {
  /** False: only shown when named. */
  usual?: boolean
  title?: string
}

function column<T>(
  key: string,
  alignRight: boolean,
  look: Look,
  text: (row: T) => string,
  exact: (row: T) => string,
  order: (row: T) => string | number,
): Column<T> {
  const title = look.title ?? key.toUpperCase()
  return { key, title, alignRight, usual: look.usual ?? true, text, exact, order }
}

export function textColumn<T>(
  key: string,
  pick: (row: T) => string | null,
  look: Look = {},
): Column<T> {
  const text = (row: T): string => pick(row) ?? '-'
  return column(key, false, look, text, text, text)
}

export function countColumn<T>(key: string, pick: (row: T) => number, look: Look = {}): Column<T> {
  const text = (row: T): string => String(pick(row))
  return column(key, true, look, text, text, pick)
}

export function sizeColumn<T>(key: string, pick: (row: T) => number, look: Look = {}): Column<T> {
  const exact = (row: T): string => String(pick(row))
  return column(key, true, look, (row) => formatSize(pick(row)), exact, pick)
}

export function timeColumn<T>(key: string, pick: (row: T) => number, look: Look = {}): Column<T> {
  const exact = (row: T): string => String(Math.trunc(pick(row)))
  return column(key, false, look, (row) => formatTime(pick(row)), exact, pick)
}

export function listColumn<T>(
  key: string,
  pick: (row: T) => readonly string[],
  look: Look = {},
): Column<T> {
  const text = (row: T): string => pick(row).join(',') || '-'
  return column(key, false, look, text, text, text)
}

/** `2026-05-31 14:02:11`, in the time zone of whoever looks. */
export function formatTime(timeMs: number): string {
  const time = new Date(timeMs)
  const two = (value: number): string => String(value).padStart(2, '0')
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`
  return `${day} ${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`
}
