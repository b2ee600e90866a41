// @ts-check
/**
 * Which nodes are marked to run elsewhere, as the server reads it from the workflow.
 *
 * A mark is `{part: NAME}`: a target, '' for the one that the switch has, null for "here" inside
 * of a group that is marked. It stands in a node's `properties` or in a group's `flags`, both of
 * which are saved with the workflow. What is further inside goes first.
 */

import { app } from '../../scripts/app.js'
import { t } from './words.js'

/** @import { ComfyApp, ComfyExtension } from '@comfyorg/comfyui-frontend-types' */

/** @typedef {ComfyApp['canvas']} LGraphCanvas */
/** @typedef {Parameters<NonNullable<ComfyExtension['nodeCreated']>>[0]} LGraphNode */
/** @typedef {NonNullable<LGraphNode['graph']>['groups'][number]} LGraphGroup */
/** @typedef {LGraphNode | LGraphGroup} Item  Something that can be marked. */
/** @typedef {string | null | undefined} Part  Where it runs; undefined: no mark. */

const MARK = 'comfy_remote'
const TITLE_HEIGHT = 30
const COLLAPSED_WIDTH = 80
const BADGE = { fgColor: '#fff', bgColor: '#1a7f4b' }

/**
 * @param {unknown} item
 * @returns {item is LGraphGroup}
 */
export function isGroup(item) {
  return typeof item === 'object' && item !== null && 'recomputeInsideNodes' in item
}

/**
 * @param {unknown} item
 * @returns {item is Item}
 */
export function canBeMarked(item) {
  return (
    isGroup(item) ||
    (typeof item === 'object' && item !== null && 'properties' in item && 'inputs' in item)
  )
}

/**
 * Where an item runs: by its own mark, else by that of the smallest marked group around it.
 *
 * @param {Item} item
 * @returns {Part}
 */
export function partOf(item) {
  const own = ownPart(item)
  if (own !== undefined || isGroup(item)) return own
  const around = (item.graph?.groups ?? [])
    .filter((group) => ownPart(group) !== undefined && holds(group, item))
    .sort((one, other) => area(one) - area(other))
  return around.length > 0 ? ownPart(around[0]) : undefined
}

/**
 * @param {Item} item
 * @returns {boolean}
 */
export function isMarked(item) {
  return typeof partOf(item) === 'string'
}

/**
 * Mark items to run on a target, or here; the page can undo it.
 *
 * @param {Item[]} items
 * @param {string | null} part
 */
export function mark(items, part) {
  app.canvas.emitBeforeChange()
  for (const item of items) {
    setPart(item, part === null ? undefined : part)
    // Still marked by a group around it.
    if (part === null && isMarked(item)) setPart(item, null)
  }
  app.canvas.emitAfterChange()
  app.canvas.setDirty(true, true)
}

/** @typedef {'exact' | 'png' | 'webp'} Images  How pictures travel to marked nodes and back. */

/**
 * Say how pictures travel, in the workflow; the page can undo it.
 *
 * @param {Images} images
 */
export function setImages(images) {
  const { extra } = app.rootGraph ?? app.graph
  app.canvas.emitBeforeChange()
  if (images === 'exact') delete extra[MARK]
  else extra[MARK] = { images }
  app.canvas.emitAfterChange()
}

/**
 * Let a node show where it runs, for as long as it exists.
 *
 * @param {LGraphNode} node
 * @param {() => string | null} usual  The switch's target.
 */
export function addBadge(node, usual) {
  const { LGraphBadge } = /** @type {any} */ (window)
  if (!LGraphBadge || !Array.isArray(node.badges)) return
  /** @type {{text: string} | null} */
  let badge = null
  node.badges.push(() => {
    const part = partOf(node)
    const text = typeof part === 'string' ? `☁ ${part || usual() || t('badge')}` : ''
    if (badge?.text !== text) badge = new LGraphBadge({ text, ...BADGE })
    return /** @type {any} */ (badge)
  })
}

/**
 * @param {Item} item
 * @returns {Record<string, any>}
 */
function holderOf(item) {
  return isGroup(item) ? item.flags : item.properties
}

/**
 * @param {Item} item
 * @returns {Part}
 */
function ownPart(item) {
  const part = holderOf(item)[MARK]?.part
  return typeof part === 'string' || part === null ? part : undefined
}

/**
 * @param {Item} item
 * @param {Part} part
 */
function setPart(item, part) {
  const holder = holderOf(item)
  if (part === undefined) delete holder[MARK]
  else holder[MARK] = { part }
}

/**
 * As the server decides it, which knows no widths of texts: see workflow/cut/marks.py.
 *
 * @param {LGraphGroup} group
 * @param {LGraphNode} node
 */
function holds(group, node) {
  const [width, height] = node.flags.collapsed ? [COLLAPSED_WIDTH, 0] : node.size
  const x = node.pos[0] + width / 2
  const y = node.pos[1] + (height - TITLE_HEIGHT) / 2
  const [left, top] = group.pos
  return x >= left && x < left + group.size[0] && y >= top && y < top + group.size[1]
}

/** @param {LGraphGroup} group */
function area(group) {
  return group.size[0] * group.size[1]
}
