// @ts-check
/**
 * Which widgets of the open graph vary, and over what.
 *
 * The graph itself is not changed, and a workflow that is saved says nothing of it: somebody else
 * who opens it would start forty runs unawares. So it is kept here, by workflow, until the tab is
 * closed.
 */

import { app } from '../../scripts/app.js'

/** @import { LGraphNode } from './marks.js' */
/** @import { OpenGraph } from './open_graph.js' */

/**
 * @typedef {object} Varied  A widget that varies.
 * @property {string} name  `NODE_ID.input`, as the server calls it.
 * @property {string} title  Of its node.
 * @property {string} input
 * @property {'number' | 'text' | 'choice' | 'switch'} kind
 * @property {boolean} seed
 * @property {unknown} current  What the graph has.
 * @property {string[]} choices  Of a list.
 * @property {string} typed  A range, or a text a line.
 * @property {string[]} chosen  Of the list.
 * @property {string} together  The name of what it varies together with; empty: with nothing.
 */

/** @typedef {{name?: string, type?: string, value?: unknown, options?: any}} Widget */

const NOT_VARIED = ['button', 'control_after_generate', 'converted-widget', 'hidden']
const BADGE = { fgColor: '#fff', bgColor: '#7a4fbf' }

/** What varies in the tab's workflows. Dispatches `changed`. */
export class Varying extends EventTarget {
  /** @type {Map<string, Map<string, Varied>>} */
  #byWorkflow = new Map()
  /** What the badges show. */
  #shown = ''

  /** @param {OpenGraph} graph */
  constructor(graph) {
    super()
    this.graph = graph
  }

  /** @returns {Varied[]} Of the open workflow. */
  get all() {
    return [...(this.#byWorkflow.get(workflowKey()) ?? new Map()).values()]
  }

  /** @param {string} nodeId */
  of(nodeId) {
    return this.all.filter(({ name }) => name.startsWith(`${nodeId}.`))
  }

  /** @param {Varied} varied */
  put(varied) {
    const key = workflowKey()
    const known = this.#byWorkflow.get(key) ?? new Map()
    known.set(varied.name, varied)
    this.#byWorkflow.set(key, known)
    this.changed()
  }

  /** @param {string} name */
  drop(name) {
    this.#byWorkflow.get(workflowKey())?.delete(name)
    for (const other of this.all) if (other.together === name) other.together = ''
    this.changed()
  }

  clear() {
    this.#byWorkflow.delete(workflowKey())
    this.changed()
  }

  changed() {
    this.dispatchEvent(new Event('changed'))
    this.drawBadges()
  }

  /** Not for each key that is typed: the page takes as long to draw a large graph as several keys take. */
  drawBadges() {
    const shown = this.all.filter(hasValues).map(({ name }) => name).join('\n')
    if (shown === this.#shown) return
    this.#shown = shown
    app.canvas?.setDirty(true, true)
  }
}

/**
 * The widgets of a node that can vary. A node inside a subgraph has none: its prompt has several of it.
 *
 * @param {LGraphNode} node
 * @returns {Varied[]}
 */
export function widgetsOf(node) {
  if (node.graph !== (app.rootGraph ?? app.graph)) return []
  const widgets = /** @type {Widget[]} */ (node.widgets ?? [])
  return widgets.filter((widget) => canVary(node, widget)).map((widget) => describe(node, widget))
}

/**
 * @param {Varied} varied
 * @returns {string | unknown[]} Its values, as the server takes them.
 */
export function valuesOf({ kind, typed, chosen, choices }) {
  if (kind === 'switch') return [true, false]
  if (kind === 'choice') return choices.filter((one) => chosen.includes(one))
  if (kind === 'number') return typed.trim()
  return typed.split('\n').map((line) => line.trim()).filter((line) => line !== '')
}

/**
 * @param {Varied} varied
 * @returns {boolean} Whether there is anything to vary over.
 */
export function hasValues(varied) {
  return valuesOf(varied).length > 0
}

/**
 * Let a node show that it varies, for as long as it exists.
 *
 * @param {LGraphNode} node
 * @param {Varying} varying
 */
export function addVaryBadge(node, varying) {
  const { LGraphBadge } = /** @type {any} */ (window)
  if (!LGraphBadge || !Array.isArray(node.badges)) return
  /** @type {{text: string} | null} */
  let badge = null
  node.badges.push(() => {
    const inputs = varying.of(String(node.id)).filter(hasValues).map(({ input }) => input)
    const text = inputs.length > 0 ? `⇄ ${inputs.join(', ')}` : ''
    if (badge?.text !== text) badge = new LGraphBadge({ text, ...BADGE })
    return /** @type {any} */ (badge)
  })
}

/**
 * Set the widgets of the open graph to what a run was made with; the page can undo it.
 *
 * @param {[string, string, unknown][]} inputs  Node, input, value.
 * @returns {number} How many of them the graph still has.
 */
export function useValues(inputs) {
  const graph = app.rootGraph ?? app.graph
  let found = 0
  app.canvas.emitBeforeChange()
  for (const [id, input, value] of inputs) {
    const node = graph.getNodeById(/** @type {any} */ (Number(id)))
    const widget = /** @type {any} */ (node?.widgets?.find((one) => one.name === input))
    if (!widget) continue
    widget.value = value
    widget.callback?.(value, app.canvas, node)
    found += 1
  }
  app.canvas.emitAfterChange()
  app.canvas.setDirty(true, true)
  return found
}

/** @returns {string} What the open workflow is called. */
export function workflowName() {
  const { filename } = openWorkflow() ?? {}
  return typeof filename === 'string' && filename ? filename : 'workflow'
}

/** @returns {string} Likewise; empty if it has not been saved, so that nobody has named it. */
export function savedWorkflowName() {
  return openWorkflow()?.isTemporary === false ? workflowName() : ''
}

function workflowKey() {
  const { path, key } = openWorkflow() ?? {}
  return String(path ?? key ?? '')
}

/** @returns {any} */
function openWorkflow() {
  // The declared types know the store's public part only.
  return /** @type {any} */ (app.extensionManager).workflow?.activeWorkflow
}

/**
 * @param {LGraphNode} node
 * @param {Widget} widget
 */
function canVary(node, { name, type, options }) {
  if (!name || NOT_VARIED.includes(name) || NOT_VARIED.includes(type ?? '')) return false
  if (options?.serialize === false) return false
  const slot = node.inputs?.find((input) => input.widget?.name === name)
  return (slot?.link ?? null) === null && kindOf(type, options) !== null
}

/**
 * @param {string | undefined} type
 * @param {any} options
 * @returns {Varied['kind'] | null}
 */
function kindOf(type, options) {
  if (type === 'combo') return choicesOf(options).length > 0 ? 'choice' : null
  if (type === 'number' || type === 'slider' || type === 'knob') return 'number'
  if (type === 'toggle') return 'switch'
  return ['text', 'string', 'customtext'].includes(type ?? '') ? 'text' : null
}

/**
 * @param {any} options
 * @returns {string[]}
 */
function choicesOf(options) {
  const values = typeof options?.values === 'function' ? options.values() : options?.values
  return Array.isArray(values) ? values.filter((one) => typeof one === 'string') : []
}

/**
 * @param {LGraphNode} node
 * @param {Widget} widget
 * @returns {Varied}
 */
function describe(node, { name, type, value, options }) {
  const input = String(name)
  const kind = /** @type {Varied['kind']} */ (kindOf(type, options))
  return {
    name: `${node.id}.${input}`,
    title: node.title ?? '',
    input,
    kind,
    seed: kind === 'number' && /(^|_)seed$/.test(input),
    current: value,
    choices: kind === 'choice' ? choicesOf(options) : [],
    typed: kind === 'text' ? String(value ?? '') : '',
    chosen: kind === 'choice' ? [String(value)] : [],
    together: ''
  }
}
