// @ts-check
/**
 * Remote API's inputs, which grow as they are connected, and the type of its result.
 *
 * By the page's own hooks: nodeCreated, the node's onConnectionsChange and onConfigure, and the
 * callbacks of its widgets.
 */

/**
 * @import { ComfyExtension } from '@comfyorg/comfyui-frontend-types'
 * @typedef {Parameters<NonNullable<ComfyExtension['nodeCreated']>>[0]} LGraphNode
 */

export const REMOTE_API = 'ComfyRemoteNode'

/** What the node's own inputs are called, also in workflows of others' versions of it. */
const NUMBERED = /^(?:remote_inputs\.)?input_(\d+)(?:_\$remote_inputs_ag\$)?$/

/**
 * @param {LGraphNode} node
 * @returns {void}
 */
export function makeItGrow(node) {
  // The definition has many inputs, so that the server checks what they are linked to.
  arrange(node)
  // It was made with room for all of them.
  node.setSize([node.size[0], node.computeSize()[1]])
  const { onConnectionsChange, onConfigure } = node
  node.onConnectionsChange = function (...change) {
    const answer = onConnectionsChange?.apply(this, change)
    arrangeSoon(node)
    return answer
  }
  node.onConfigure = function (...saved) {
    onConfigure?.apply(this, saved)
    arrangeSoon(node)
  }
  for (const name of ['keys', 'output_type']) {
    const widget = node.widgets?.find((one) => one.name === name)
    if (!widget) continue
    const { callback } = widget
    widget.callback = function (...change) {
      const answer = callback?.apply(this, change)
      arrangeSoon(node)
      return answer
    }
  }
}

/**
 * Once the page is done with what it is doing: while it loads a workflow, the links come after
 * the nodes.
 *
 * @param {LGraphNode} node
 */
function arrangeSoon(node) {
  if (waiting.has(node)) return
  waiting.add(node)
  setTimeout(() => {
    waiting.delete(node)
    if (node.graph) arrange(node)
  })
}

/** @type {WeakSet<LGraphNode>} */
const waiting = new WeakSet()

/**
 * All that is connected, and one free input behind it.
 *
 * @param {LGraphNode} node
 */
function arrange(node) {
  const last = numbers(node, true).at(-1) ?? -1
  for (let slot = node.inputs.length - 1; slot >= 0; slot--) {
    const number = numberOf(node.inputs[slot])
    if (number !== null && number > last + 1 && (node.inputs[slot].link ?? null) === null) {
      node.removeInput(slot)
    }
  }
  const there = new Set(numbers(node, false))
  for (let number = 0; number <= last + 1; number++) {
    if (!there.has(number)) node.addInput(`input_${number}`, '*', { shape: OPTIONAL })
  }
  name(node)
  const type = String(value(node, 'output_type') || '*')
  const [output] = node.outputs
  if (output && output.type !== type) output.type = type
  node.setDirtyCanvas(true, true)
}

/** LiteGraph's shape of optional inputs: a hollow circle. */
const OPTIONAL = 7

/**
 * Show the names that the values are sent under.
 *
 * @param {LGraphNode} node
 */
function name(node) {
  const keys = String(value(node, 'keys') ?? '')
    .split(/[,\n]/)
    .map((key) => key.trim())
  for (const input of node.inputs) {
    const number = numberOf(input)
    if (number !== null) input.label = keys[number] || `input_${number}`
  }
}

/**
 * @param {LGraphNode} node
 * @param {boolean} connected Only those.
 * @returns {number[]} Ascending.
 */
function numbers(node, connected) {
  const found = []
  for (const input of node.inputs) {
    const number = numberOf(input)
    if (number !== null && !(connected && (input.link ?? null) === null)) found.push(number)
  }
  return found.sort((one, other) => one - other)
}

/**
 * @param {{ name: string }} input
 * @returns {number | null}
 */
function numberOf(input) {
  const found = NUMBERED.exec(input.name)
  return found ? Number(found[1]) : null
}

/**
 * @param {LGraphNode} node
 * @param {string} widget
 */
function value(node, widget) {
  return node.widgets?.find((one) => one.name === widget)?.value
}
