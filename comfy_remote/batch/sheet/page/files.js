// @ts-check
/** Where files are: inside of this page, or beside it. */

/** @import { Output, Run } from './batch.js' */

/** @type {Map<string, HTMLElement> | undefined} */
let inside

/** A file's content as a data: address, where this page has it. @param {string} name */
function embedded(name) {
  inside ??= new Map(
    [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('script[data-file]'))].map((one) => [
      one.dataset.file ?? '',
      one
    ])
  )
  const found = inside.get(name)
  return found && `data:${found.dataset.kind};base64,${found.textContent}`
}

/** The address of a file beside this page; nothing in a name can lead elsewhere. @param {string} file */
export function beside(file) {
  return `./${file.split('/').map(encodeURIComponent).join('/')}`
}

/** A small picture of an output; "" if there is none. @param {Output} output */
export function small(output) {
  if (output.thumbnail) return embedded(output.thumbnail) ?? beside(output.thumbnail)
  // What was refused for its size is not decoded here, either.
  return output.kind === 'image' && !output.why && output.file ? beside(output.file) : ''
}

/** An output itself, or the largest picture of it that this page has. @param {Output} output */
export function whole(output) {
  return embedded(output.file) ?? (output.why ? '' : beside(output.file))
}

/**
 * The output that stands for a run: of the chosen node, and one that can be seen if there is one.
 * @param {Run} run
 * @param {string | null} node
 */
export function shownOutput(run, node) {
  const rank = (/** @type {Output} */ output) => ['image', 'video', 'audio', '3d', 'text'].indexOf(output.kind) + 1 || 9
  const wanted = node === null ? run.outputs : run.outputs.filter((one) => (one.node ?? '') === node)
  return wanted.reduce((best, one) => (!best || rank(one) < rank(best) ? one : best), /** @type {Output | undefined} */ (undefined))
}

/** @param {string} file */
export function baseName(file) {
  return file.slice(file.lastIndexOf('/') + 1)
}

/**
 * Have the browser save a text as a file.
 * @param {string} name
 * @param {string} text
 */
export function save(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: 'application/json' }))
  const link = document.createElement('a')
  link.href = address
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(address), 10_000)
}
