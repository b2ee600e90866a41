// @ts-check
/** What would run where if the graph ran now, and what would cross. */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { askIfUnconfirmed } from './confirm_dialog.js'
import { element } from './dom.js'
import { setImages } from './marks.js'
import { openModal } from './modal.js'
import { showNote, showWarning } from './notices.js'
import { asRemoteError, postCut } from './remote_api.js'

/** @import { Images } from './marks.js' */
/** @import { Crossing, Cut, Part } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

/** @typedef {(nodeId: string) => string} Namer */

/** @type {Record<Images, string>} */
const IMAGES = {
  exact: 'exactly as they are',
  png: 'as 8-bit PNG: smaller, each value is rounded',
  webp: 'as 8-bit WebP: smaller still, each value is rounded'
}

/**
 * Ask the server, and show what it says.
 *
 * @param {RemoteState} state
 */
export async function showCut(state) {
  const content = element('div', { 'aria-live': 'polite' }, 'Asking the targets …')
  const modal = openModal('What runs where', content)
  await fill(content, state)
  return modal
}

/**
 * Say in a line what the marks now come to: it is known before anything runs.
 */
export async function tellCut() {
  try {
    const { output, workflow } = await app.graphToPrompt()
    const cut = await postCut({ client_id: api.clientId, prompt: output, workflow })
    if (cut.parts.length === 0) return
    const where = cut.parts.map((part) => `${countOf(part.nodes)} on ${part.name}`).join(', ')
    showNote('Runs elsewhere', `${where}. Crosses: ${totalWords(cut)}.`)
  } catch (error) {
    if (await askIfUnconfirmed(error)) return tellCut()
    showWarning('This cannot run elsewhere', error)
  }
}

/** @param {string[]} nodes */
function countOf(nodes) {
  return nodes.length === 1 ? '1 node' : `${nodes.length} nodes`
}

/**
 * @param {HTMLElement} content
 * @param {RemoteState} state
 */
async function fill(content, state) {
  try {
    const { output, workflow } = await app.graphToPrompt()
    const cut = await postCut({ client_id: api.clientId, prompt: output, workflow })
    /** @type {Namer} */
    const named = (nodeId) => {
      const node = output[nodeId]
      return `${node?._meta?.title ?? node?.class_type ?? 'node'} (${nodeId})`
    }
    content.replaceChildren(...cutContent(cut, named, state.target))
    if (cut.parts.length > 0) content.append(imagesChoice(cut, () => void fill(content, state)))
  } catch (error) {
    if (await askIfUnconfirmed(error)) return fill(content, state)
    const { message, advice } = asRemoteError(error)
    content.replaceChildren(
      element('p', { class: 'comfy-remote-problem', role: 'alert' }, `${message} ${advice}`.trim())
    )
  }
}

/**
 * @param {Cut} cut
 * @param {() => void} changed
 */
function imagesChoice(cut, changed) {
  const choice = element('select', {})
  for (const [value, words] of Object.entries(IMAGES)) {
    choice.append(element('option', { value, selected: value === cut.images }, words))
  }
  choice.addEventListener('change', () => {
    setImages(/** @type {Images} */ (choice.value))
    changed()
  })
  return element('label', { class: 'comfy-remote-choice' }, 'Pictures travel ', choice)
}

/**
 * @param {Cut} cut
 * @param {Namer} named
 * @param {string | null} switchedTo
 * @returns {HTMLElement[]}
 */
function cutContent(cut, named, switchedTo) {
  const notes = [...cut.notes]
  if (switchedTo !== null) {
    notes.unshift(`Remote is on: all of it runs on ${switchedTo}. Marks count while it is off.`)
  }
  if (cut.parts.length === 0) {
    notes.unshift('No node that an output needs is marked to run elsewhere: all of it runs here.')
  }
  return [
    ...notes.map((note) => element('p', { class: 'comfy-remote-advice' }, note)),
    ...cut.parts.map((part) => partContent(part, named)),
    ...(cut.parts.length > 0 ? [total(cut), hereContent(cut, named)] : [])
  ]
}

/**
 * @param {Part} part
 * @param {Namer} named
 */
function partContent(part, named) {
  return element(
    'section',
    {},
    element('h3', {}, `On ${part.name}`),
    element(
      'dl',
      { class: 'comfy-remote-facts' },
      ...fact('Runs there', part.nodes.map(named)),
      ...fact('Made there as well', part.copies.map(named)),
      ...fact('Files that travel', part.files)
    ),
    crossings('Goes there', part.inputs, named),
    crossings('Comes back', part.outputs, named)
  )
}

/**
 * @param {string} name
 * @param {string[]} values
 */
function fact(name, values) {
  return values.length > 0 ? [element('dt', {}, name), element('dd', {}, values.join(', '))] : []
}

/**
 * @param {string} caption
 * @param {Crossing[]} all
 * @param {Namer} named
 */
function crossings(caption, all, named) {
  if (all.length === 0) return element('p', { class: 'comfy-remote-quiet' }, `${caption}: nothing`)
  const head = ['Value', 'Made by', 'Used by', 'Size']
  return element(
    'table',
    { class: 'comfy-remote-table' },
    element('caption', {}, caption),
    element('thead', {}, row('th', head)),
    element(
      'tbody',
      {},
      ...all.map((one) => {
        const users = [...new Set(one.to.map((place) => named(place.node_id)))].join(', ')
        return row('td', [one.type, named(one.node_id), users, humanSize(one.size)])
      })
    )
  )
}

/**
 * @param {'th' | 'td'} tag
 * @param {string[]} cells
 */
function row(tag, cells) {
  const scope = tag === 'th' ? 'col' : null
  return element('tr', {}, ...cells.map((cell) => element(tag, { scope }, cell)))
}

/** @param {Cut} cut */
function total(cut) {
  return element('p', {}, element('strong', {}, `Crosses: ${totalWords(cut)}.`))
}

/** @param {Cut} cut */
function totalWords(cut) {
  const all = cut.parts.flatMap((part) => [...part.inputs, ...part.outputs])
  const known = all.filter((one) => one.size !== null)
  const bytes = known.reduce((sum, one) => sum + (one.size ?? 0), 0)
  const unknown = all.length - known.length
  const words = [
    known.length > 0 ? `about ${humanSize(bytes)}` : '',
    unknown > 0 ? `${unknown} of a size that the graph does not tell` : ''
  ]
  return words.filter((word) => word).join(', and ') || 'nothing'
}

/**
 * @param {Cut} cut
 * @param {Namer} named
 */
function hereContent(cut, named) {
  return element(
    'details',
    {},
    element('summary', {}, `Here: ${cut.here.length} nodes`),
    element('p', { class: 'comfy-remote-quiet' }, cut.here.map(named).join(', '))
  )
}

/**
 * @param {number | null} bytes
 * @returns {string}
 */
function humanSize(bytes) {
  if (bytes === null) return 'unknown'
  const units = ['B', 'kB', 'MB', 'GB']
  let size = bytes
  let unit = 0
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000
    unit += 1
  }
  return `${size >= 100 || unit === 0 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`
}
