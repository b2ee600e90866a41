// @ts-check
/** Command lines to paste: a shell must take each argument as it is, whoever wrote it. */

// Control characters end what a terminal pastes as text; the others change the order or the
// meaning of what is seen before Enter is pressed.
// eslint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff\ud800-\udfff]/u
const PLAIN = /^[A-Za-z0-9_\-./:+][A-Za-z0-9_\-./:=+]*$/

/** The words for bash, zsh and their kin, quoted where they have to be. @param {string[]} words */
export function posix(words) {
  return words.map(posixWord)
}

/** @param {string} word */
function posixWord(word) {
  if (PLAIN.test(word)) return word
  if (!UNSEEN.test(word)) return `'${word.replaceAll("'", "'\\''")}'`
  // $'…': bash, zsh, ksh, and POSIX since 2024.
  let quoted = ''
  for (const character of word) {
    const code = /** @type {number} */ (character.codePointAt(0))
    if (character === "'" || character === '\\') quoted += `\\${character}`
    else if (character === '\n') quoted += '\\n'
    else if (!UNSEEN.test(character)) quoted += character
    else for (const byte of utf8(code)) quoted += `\\${byte.toString(8).padStart(3, '0')}`
  }
  return `$'${quoted}'`
}

/** @param {number} code */
function utf8(code) {
  return new TextEncoder().encode(String.fromCodePoint(code))
}

/** The words for PowerShell. @param {string[]} words */
export function powershell(words) {
  const quoted = words.map(powershellWord)
  return /^['(]/.test(quoted[0] ?? '') ? ['&', ...quoted] : quoted
}

/** @param {string} word */
function powershellWord(word) {
  // A dot within -x.y would be taken for the start of another argument.
  if (PLAIN.test(word) && !/^-[^-].*[.:]/.test(word)) return word
  // PowerShell takes typographic quotes for quotes, too; each is doubled.
  const quoted = (/** @type {string} */ text) => `'${text.replace(/['\u2018-\u201b]/g, '$&$&')}'`
  if (!UNSEEN.test(word)) return quoted(word)
  const parts = []
  let plain = ''
  for (const unit of word) {
    if (!UNSEEN.test(unit)) {
      plain += unit
      continue
    }
    if (plain) parts.push(quoted(plain))
    plain = ''
    for (let at = 0; at < unit.length; at++) parts.push(`[char]${unit.charCodeAt(at)}`)
  }
  if (plain) parts.push(quoted(plain))
  // The sum is a text because its first part is one.
  return `(${parts[0].startsWith('[') ? ["''", ...parts].join(' + ') : parts.join(' + ')})`
}

/** Whether PowerShell before 7.3 would pass this on otherwise. @param {string[]} words */
export function needsNewPowershell(words) {
  return words.some((word) => word.includes('"') || word === '')
}
