// @ts-check
/** Where people mark nodes to run elsewhere: menus, the toolbox over a selection, commands. */

import { app } from '../../scripts/app.js'
import { tellCut } from './cut_dialog.js'
import { showNote } from './notices.js'
import { canBeMarked, isGroup, isMarked, mark, partOf } from './marks.js'
import { askForTarget } from './target_dialog.js'

/** @import { Item, LGraphCanvas, LGraphGroup, LGraphNode } from './marks.js' */
/** @import { RemoteState } from './remote_state.js' */

const MARK = 'ComfyRemote.MarkSelection'
const MARK_WHERE = 'ComfyRemote.MarkSelectionWhere'
const SHOW = 'ComfyRemote.ShowCut'

/**
 * The parts of an extension that have to do with marks. All are hooks of the page: menus since
 * 1.28, the toolbox and commands in every version.
 *
 * @param {RemoteState} state
 * @param {() => void} showCut
 */
export function markMenus(state, showCut) {
  /** @param {Item[]} items */
  const toggle = (items) => markAndTell(items, items.every(isMarked) ? null : '')

  /** @param {Item[]} items */
  const choose = async (items) => {
    if (state.targets.length === 0) await state.refresh().catch(() => null)
    const part = await askForTarget(state, partOf(items[0]) ?? null)
    if (part !== undefined) markAndTell(items, part)
  }

  /** @param {(items: Item[]) => void} action */
  const withSelection = (action) => () => {
    const items = selection()
    if (items.length > 0) action(items)
    else showNote('Remote', 'Select the nodes or groups that shall run elsewhere first.')
  }

  /**
   * @param {Item[]} items
   * @param {string} which
   */
  const menuFor = (items, which) => [
    null,
    {
      content: items.every(isMarked) ? `Run ${which}here again` : `Run ${which}remotely`,
      callback: () => toggle(items)
    },
    { content: `Run ${which}remotely on …`, callback: () => void choose(items) },
    { content: 'Show what runs where', callback: showCut }
  ]

  return {
    commands: [
      {
        id: MARK,
        label: 'Run remotely, or here again',
        icon: 'pi pi-cloud',
        function: withSelection(toggle)
      },
      {
        id: MARK_WHERE,
        label: 'Run remotely on …',
        icon: 'pi pi-cloud-upload',
        function: withSelection((items) => void choose(items))
      },
      { id: SHOW, label: 'Show what runs where', icon: 'pi pi-sitemap', function: showCut }
    ],
    /** Of the menu bar. */
    menu: [MARK, MARK_WHERE, SHOW],
    /** @param {unknown} item */
    getSelectionToolboxCommands: (item) =>
      canBeMarked(item) ? (isMarked(item) ? [MARK, MARK_WHERE, SHOW] : [MARK, MARK_WHERE]) : [],
    /** @param {LGraphNode} node */
    getNodeMenuItems: (node) => {
      const selected = selection()
      return menuFor(selected.includes(node) ? selected : [node], '')
    },
    /** @param {LGraphCanvas} canvas */
    getCanvasMenuItems: (canvas) => {
      const [x, y] = canvas.graph_mouse
      const group = canvas.graph?.getGroupOnPos(x, y)
      return group ? menuFor([group], 'this group ') : []
    }
  }
}

/**
 * @param {Item[]} items
 * @param {string | null} part
 */
function markAndTell(items, part) {
  mark(items, part)
  void tellCut()
}

/** @returns {Item[]} */
function selection() {
  const items = [...app.canvas.selectedItems].filter(canBeMarked)
  const groups = items.filter(isGroup)
  // Selecting a group selects what is in it.
  return groups.length > 0 ? items.filter((item) => !groups.some((g) => isInside(g, item))) : items
}

/**
 * @param {LGraphGroup} group
 * @param {Item} item
 */
function isInside(group, item) {
  return item !== group && [...group.children].includes(/** @type {any} */ (item))
}
