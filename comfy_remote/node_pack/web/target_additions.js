// @ts-check
/** Models and nodes that only the target has, in the page's lists while Remote is on. */

import { app } from '../../scripts/app.js'
import { showNote, showWarning } from './notices.js'
import { ServerPartMissing, getAdditions } from './remote_api.js'
import { t } from './words.js'

/** @import { ComfyNodeDef } from '@comfyorg/comfyui-frontend-types' */
/** @import { Additions } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

/** @typedef {Record<string, ComfyNodeDef>} Definitions */
/** @typedef {typeof app.graph} Graph */

/** The page starts without the target's models rather than late. */
const LOAD_SECONDS = 4

/** What the page's lists show of the switch's target. */
export class TargetLists {
  #state
  /** @type {Additions | null} Shown beside the page's own. */
  #shown = null
  /** @type {Additions | null} Still in the page's lists, to be removed by the next refresh. */
  #leaving = null

  /** @param {RemoteState} state */
  constructor(state) {
    this.#state = state
  }

  /** Whether the page's lists are known to show all that the target has. */
  get known() {
    return this.#shown?.known === true
  }

  /** Ask what the target has, and refresh the page's lists where that makes a difference. */
  async update() {
    const state = this.#state
    const { target } = state
    state.updating = true
    void state.askTarget()
    try {
      const found = target === null ? null : await getAdditions(target)
      // Switched again while the target was being asked: that one updates the lists.
      if (state.target !== target) return
      await this.#replace(found)
      if (nodesToReload(found).length > 0) await reopen()
      const nodes = nodesToReload(found).join(', ')
      if (nodes) showNote(t('reloadPage'), t('reloadToUse', { target: target ?? '', nodes }))
    } catch (error) {
      if (state.target !== target) return
      await this.#replace(null)
      // Of that, the start of the page says more.
      if (!(error instanceof ServerPartMissing)) showWarning(t('localListsOnly'), error)
    } finally {
      if (state.target === target) state.updating = false
    }
  }

  /** After the start, if the target's answer did not come in time for `addOnLoad`. */
  async updateIfMissing() {
    if (this.#state.target !== null && this.#shown === null) await this.update()
  }

  /**
   * For ComfyUI's hook `addCustomNodeDefs`: while the page starts.
   *
   * @param {Definitions} definitions
   */
  async addOnLoad(definitions) {
    if (this.#state.target === null) return
    const asked = getAdditions(this.#state.target)
    const late = new Promise((resolve) => setTimeout(resolve, LOAD_SECONDS * 1000, null))
    const found = await Promise.race([asked, late]).catch(() => null)
    if (found) {
      this.#shown = found
      addTo(definitions, found)
    }
  }

  /**
   * For ComfyUI's hook `refreshComboInNodes`: the page has set all lists to the local choices.
   *
   * @param {Definitions} definitions
   */
  async refresh(definitions) {
    const gone = Object.keys(this.#leaving?.nodes ?? {}).filter((name) => !this.#shown?.nodes[name])
    this.#leaving = null
    await refreshNodes(definitions, this.#shown, gone)
  }

  /** @param {Graph['nodes'][number]} node  A new one. */
  label(node) {
    labelChoices(node, this.#shown)
  }

  /** @param {Additions | null} found */
  async #replace(found) {
    this.#leaving = this.#shown
    this.#shown = found
    if (!isSome(this.#leaving) && !isSome(found)) return
    await app.refreshComboInNodes()
    await findMissingModels()
    app.canvas.setDirty(true, true)
  }
}

/**
 * Have the page look again which models the open workflow names and no list has. Pages before 1.49
 * look only when a workflow is opened.
 */
async function findMissingModels() {
  const page = /** @type {any} */ (app)
  await page.refreshMissingModels?.({ reloadDefs: false, silent: true })
}

/** @param {Additions | null} some */
function isSome(some) {
  return some !== null && Object.keys({ ...some.nodes, ...some.choices }).length > 0
}

/**
 * Add the target's models to the lists of choices, and its nodes to the nodes.
 *
 * @param {Definitions} definitions  As `/object_info` has them; changed in place.
 * @param {Additions} additions
 * @returns {string[]} The classes that are new or changed.
 */
function addTo(definitions, additions) {
  const changed = []
  for (const [name, node] of Object.entries(additions.nodes)) {
    if (name in definitions) continue
    definitions[name] = {
      ...node,
      name,
      display_name: t('remoteOnly', { name: node.display_name || name }),
      description: `${node.description || ''}\n${t('onlyOn', { target: additions.target })}`.trim()
    }
    changed.push(name)
  }
  for (const [name, inputs] of Object.entries(additions.choices)) {
    const definition = definitions[name]
    if (!definition) continue
    for (const [input, values] of Object.entries(inputs)) {
      const choices = choicesOf(definition, input)
      choices?.push(...values.filter((value) => !choices.includes(value)))
    }
    changed.push(name)
  }
  return changed
}

/**
 * Bring the page's nodes up to date once its own definitions are.
 *
 * @param {Definitions} definitions
 * @param {Additions | null} additions  null: Remote is off.
 * @param {Iterable<string>} previous  Classes that were only on the last target.
 */
async function refreshNodes(definitions, additions, previous) {
  for (const name of previous) hide(name, true)
  for (const node of nodesOf(app.graph)) labelChoices(node, additions)
  if (!additions) return
  const changed = new Set(addTo(definitions, additions))
  for (const name of changed) {
    try {
      await app.registerNodeDef(name, definitions[name])
      hide(name, false)
    } catch (error) {
      // The other classes do not suffer for one that the page cannot register.
      console.warn(`Comfy Remote: the page does not take the node ${name}`, error)
    }
  }
  for (const node of nodesOf(app.graph)) {
    // A primitive node shows the choices of whatever it is connected to.
    if ('refreshComboInNode' in node && typeof node.refreshComboInNode === 'function') {
      node.refreshComboInNode(definitions)
    }
    if (!changed.has(node.type)) continue
    for (const widget of node.widgets ?? []) {
      const choices = choicesOf(definitions[node.type], widget.name)
      if (widget.type === 'combo' && choices) widget.options.values = choices
    }
  }
}

/** Open the graph again, with the nodes that the page knows by now; close to what its undo does. */
async function reopen() {
  const page = /** @type {any} */ (app)
  const graph = (page.rootGraph ?? page.graph).serialize()
  const { activeWorkflow } = page.extensionManager.workflow ?? {}
  if (!activeWorkflow) return
  await page.loadGraphData(graph, true, false, activeWorkflow, {
    showMissingModelsDialog: false,
    showMissingNodesDialog: false
  })
}

/**
 * Which classes the open workflow has as empty shells: it was opened before the page knew them.
 *
 * @param {Additions | null} additions
 * @returns {string[]}
 */
function nodesToReload(additions) {
  const shells = [...nodesOf(app.graph)].filter(
    (node) => additions?.nodes[node.type] && !(/** @type {any} */ (node.constructor).nodeData)
  )
  return [...new Set(shells.map((node) => node.type))]
}

/**
 * @param {ComfyNodeDef} definition
 * @param {string} input
 * @returns {any[] | null} The list itself, not a copy; null for an input that is no choice.
 */
function choicesOf(definition, input) {
  for (const group of [definition.input?.required, definition.input?.optional]) {
    /** @type {any} */
    const specification = group?.[input]
    if (!Array.isArray(specification)) continue
    if (Array.isArray(specification[0])) return specification[0]
    if (Array.isArray(specification[1]?.options)) return specification[1].options
  }
  return null
}

/**
 * Mark in a node's lists what only the target has. Pages before 1.49 show no labels.
 *
 * @param {Graph['nodes'][number]} node
 * @param {Additions | null} additions
 */
function labelChoices(node, additions) {
  const choices = additions?.choices[node.comfyClass ?? node.type] ?? {}
  for (const widget of node.widgets ?? []) {
    if (widget.type === 'combo') labelWidget(widget, choices[widget.name] ?? [])
  }
}

/** The label of each value before ours, by widget. @type {WeakMap<object, unknown>} */
const labels = new WeakMap()

/**
 * @param {any} widget
 * @param {unknown[]} onlyThere
 */
function labelWidget(widget, onlyThere) {
  if (labels.has(widget)) {
    widget.options.getOptionLabel = labels.get(widget)
    labels.delete(widget)
  }
  if (onlyThere.length === 0) return
  const before = widget.options.getOptionLabel
  const marked = new Set(onlyThere)
  labels.set(widget, before)
  widget.options.getOptionLabel = (/** @type {string | null} */ value) => {
    const label = before?.(value) ?? value ?? ''
    return marked.has(value) ? t('remoteOnly', { name: label }) : label
  }
}

/**
 * Leave a node type out of the lists to choose from, or put it back. Nodes of it that are in
 * a graph stay as they are.
 *
 * @param {string} name
 * @param {boolean} hidden
 */
function hide(name, hidden) {
  /** @type {any} */
  const page = window
  const type = page.LiteGraph?.registered_node_types[name]
  if (type) type.skip_list = hidden
}

/**
 * @param {Graph | undefined} graph
 * @returns {Generator<Graph['nodes'][number]>} With those in subgraphs.
 */
export function* nodesOf(graph) {
  for (const node of graph?.nodes ?? []) {
    yield node
    if (node.isSubgraphNode?.()) yield* nodesOf(node.subgraph)
  }
}
