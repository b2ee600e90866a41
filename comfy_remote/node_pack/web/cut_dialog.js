// @ts-check
/** What would run where if the graph ran now, and which values would be sent. */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { sizeOf } from './amounts.js'
import { askIfUnconfirmed } from './confirm_dialog.js'
import { button, element, openDialog } from './dom.js'
import { setImages } from './marks.js'
import { showNote, showWarning } from './notices.js'
import { RemoteError, postCut, wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { Images } from './marks.js' */
/** @import { Crossing, Cut, Part } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

/** @typedef {(nodeId: string) => string} Namer */

/** @typedef {Awaited<ReturnType<typeof app.graphToPrompt>>['output']} Output */

const IMAGES = /** @type {const} */ ({
  exact: 'imagesExact',
  png: 'imagesPng',
  webp: 'imagesWebp'
})

/**
 * Ask the server, and show what it says.
 *
 * @param {RemoteState} state
 * @param {import('./bring.js').Bring} bring
 */
export async function showCut(state, bring) {
  if (state.target !== null) {
    const note = t('switchedOn', { target: state.target })
    openDialog(t('cutTitle'), element('p', { class: 'comfy-remote-advice' }, note))
    return
  }
  const content = element('div', { 'aria-live': 'polite' }, t('askingTargets'))
  openDialog(t('cutTitle'), content)
  await fill(content, bring)
}

/**
 * Say in one line what the marks now mean, before anything runs.
 *
 * @param {RemoteState} state
 */
export async function showCutInBrief(state) {
  if (state.target !== null) {
    showNote(t('cutTitle'), t('switchedOn', { target: state.target }))
    return
  }
  try {
    const { cut } = await cutGraph()
    if (cut.parts.length === 0) return
    const where = cut.parts.map(({ nodes: { length }, name }) =>
      t(length === 1 ? 'oneNodeOn' : 'nodesOn', { count: length, target: name })
    )
    const what = totalWords(cut)
    showNote(t('runsElsewhere'), t('runsElsewhereHelp', { where: where.join(', '), what }))
  } catch (error) {
    showWarning(t('cannotRunElsewhere'), error)
  }
}

/**
 * Have the server cut the open graph; ask about an address that nobody has confirmed.
 *
 * @returns {Promise<{cut: Cut, output: Output}>}
 */
async function cutGraph() {
  const { output, workflow } = await app.graphToPrompt()
  try {
    return { cut: await postCut({ client_id: api.clientId, prompt: output, workflow }), output }
  } catch (error) {
    if (await askIfUnconfirmed(error)) return cutGraph()
    throw error
  }
}

/**
 * @param {HTMLElement} content
 * @param {import('./bring.js').Bring} bring
 */
async function fill(content, bring) {
  try {
    const { cut, output } = await cutGraph()
    /** @type {Namer} */
    const named = (nodeId) => {
      const node = output[nodeId]
      return `${node?._meta?.title ?? node?.class_type ?? t('nodeWord')} (${nodeId})`
    }
    content.replaceChildren(...cutContent(cut, named))
    if (cut.parts.length > 0) content.append(imagesChoice(cut, () => void fill(content, bring)))
  } catch (error) {
    content.replaceChildren(
      element('p', { class: 'comfy-remote-problem', role: 'alert' }, wordsOf(error))
    )
    const lacking = error instanceof RemoteError ? error.lacking : null
    if (lacking) content.append(button({ onclick: () => void bring(lacking) }, t('bringIt', { target: lacking.target })))
  }
}

/**
 * @param {Cut} cut
 * @param {() => void} changed
 */
function imagesChoice(cut, changed) {
  const choice = element('select', {})
  for (const [value, key] of Object.entries(IMAGES)) {
    choice.append(element('option', { value, selected: value === cut.images }, t(key)))
  }
  choice.addEventListener('change', () => {
    setImages(/** @type {Images} */ (choice.value))
    changed()
  })
  return element('label', { class: 'comfy-remote-choice' }, `${t('picturesTravel')} `, choice)
}

/**
 * @param {Cut} cut
 * @param {Namer} named
 * @returns {HTMLElement[]}
 */
function cutContent(cut, named) {
  const notes = [...cut.notes]
  if (cut.parts.length === 0) {
    notes.unshift(t('nothingMarked'))
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
    element('h3', {}, t('onTarget', { target: part.name })),
    element(
      'dl',
      { class: 'comfy-remote-facts' },
      ...fact(t('runsThere'), part.nodes.map(named)),
      ...fact(t('madeThereToo'), part.copies.map(named)),
      ...fact(t('filesSent'), part.files)
    ),
    crossings(t('goesThere'), part.inputs, named),
    crossings(t('comesBack'), part.outputs, named)
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
  if (all.length === 0) {
    return element('p', { class: 'comfy-remote-quiet' }, t('nothingCrosses', { caption }))
  }
  const head = [t('value'), t('madeBy'), t('usedBy'), t('size')]
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
        return row('td', [one.type, named(one.node_id), users, sizeOf(one.size)])
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
  return element('p', {}, element('strong', {}, t('crosses', { what: totalWords(cut) })))
}

/** @param {Cut} cut */
function totalWords(cut) {
  const all = cut.parts.flatMap((part) => [...part.inputs, ...part.outputs])
  const known = all.filter((one) => one.size !== null)
  const bytes = known.reduce((sum, one) => sum + (one.size ?? 0), 0)
  const count = all.length - known.length
  if (all.length === 0) return t('nothing')
  if (known.length === 0) return t('unknownSizes', { count })
  return t(count > 0 ? 'aboutSizeAndUnknown' : 'aboutSize', { size: sizeOf(bytes), count })
}

/**
 * @param {Cut} cut
 * @param {Namer} named
 */
function hereContent(cut, named) {
  return element(
    'details',
    {},
    element('summary', {}, t('hereCount', { count: cut.here.length })),
    element('p', { class: 'comfy-remote-quiet' }, cut.here.map(named).join(', '))
  )
}
