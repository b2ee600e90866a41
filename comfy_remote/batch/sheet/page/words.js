// @ts-check
/** Amounts, values and states as people read them. */

/** @typedef {string | number | boolean | null | object} Json */

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  if (whole < 60) return `${whole} s`
  const two = (/** @type {number} */ number) => String(number).padStart(2, '0')
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)} h` : `${minutes}:${two(whole % 60)} min`
}

/** @param {number} amount  US dollars. */
export function dollars(amount) {
  if (amount === 0) return '$0'
  if (amount < 0.0001) return 'under $0.0001'
  return `$${amount.toFixed(amount < 0.01 ? 4 : amount < 1 ? 3 : 2)}`
}

/** @param {number} bytes */
export function size(bytes) {
  let amount = bytes
  for (const unit of ['B', 'kB', 'MB', 'GB']) {
    if (amount < 999.5) return `${amount.toFixed(amount >= 100 || unit === 'B' ? 0 : 1)} ${unit}`
    amount /= 1000
  }
  return `${amount.toFixed(1)} TB`
}

/**
 * @param {number} number
 * @param {string} noun
 */
export function counted(number, noun) {
  return `${number.toLocaleString('en')} ${noun}${number === 1 ? '' : 's'}`
}

// What is not seen, or changes the order or the meaning of what stands beside it; line breaks stay.
// eslint-disable-next-line no-control-regex
const UNSAFE = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb]/g

/** A text as it may stand beside others. @param {string} text */
export function clean(text) {
  return text.replace(UNSAFE, '\ufffd')
}

/**
 * A value for reading: a long number is rounded, and what is not seen is a \ufffd.
 * @param {Json | undefined} value
 */
export function valueText(value) {
  if (value === undefined) return '–'
  if (typeof value === 'number' && !Number.isInteger(value)) return String(Number(value.toPrecision(8)))
  if (typeof value === 'string') return value === '' ? '(empty)' : clean(value)
  return clean(JSON.stringify(value))
}

/**
 * `KSampler.seed` is "seed" where nothing else that varies ends so.
 * @param {string[]} names
 * @returns {Map<string, string>}
 */
export function shortNames(names) {
  const last = (/** @type {string} */ name) => name.slice(name.lastIndexOf('.') + 1) || name
  return new Map(
    names.map((name) => [
      name,
      clean(names.filter((other) => last(other) === last(name)).length > 1 ? name : last(name))
    ])
  )
}

/** @type {Record<string, string>} */
const STATES = {
  succeeded: 'Succeeded',
  failed: 'Failed',
  cancelled: 'Cancelled',
  missing: 'Not run yet'
}

/** @param {string} state */
export function stateText(state) {
  return Object.hasOwn(STATES, state) ? STATES[state] : state
}

/**
 * @param {string} tag
 * @param {string} [kind]  Its class.
 * @param {...(string | Node)} content
 */
export function element(tag, kind = '', ...content) {
  const made = document.createElement(tag)
  if (kind) made.className = kind
  made.append(...content)
  return made
}

/** @param {string} id */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id))
}
