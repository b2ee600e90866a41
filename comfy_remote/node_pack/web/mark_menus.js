// @ts-check
/** How nodes are marked to run elsewhere: menus, the toolbox over a selection, commands. */

import { app } from '../../scripts/app.js'
import { showCutInBrief } from './cut_dialog.js'
import { button, element, openDialog } from './dom.js'
import { canBeMarked, isGroup, isMarked, mark, partOf } from './marks.js'
import { showNote } from './notices.js'
import { t } from './words.js'

/** @import { Item, LGraphCanvas, LGraphGroup, LGraphNode } from './marks.js' */
/** @import { RemoteState } from './remote_state.js' */

const MARK = 'ComfyRemote.MarkSelection'
const MARK_WHERE = 'ComfyRemote.MarkSelectionWhere'
const SHOW = 'ComfyRemote.ShowCut'
const HERE = '\0here'

/**
 * The members of our extension that concern marks. All are hooks of the page: menus since
 * 1.28, the toolbox and commands in every version.
 *
 * @param {RemoteState} state
 * @param {() => void} showCut
 */
export function markMenus(state, showCut) {
  /** @param {Item[]} items */
  const toggle = (items) => markAndTell(state, items, items.every(isMarked) ? null : '')

  /** @param {Item[]} items */
  const choose = async (items) => {
    if (state.targets.length === 0) await state.refresh().catch(() => null)
    const part = await askForTarget(state, partOf(items[0]) ?? null)
    if (part !== undefined) markAndTell(state, items, part)
  }

  /** @param {(items: Item[]) => void} action */
  const withSelection = (action) => () => {
    const items = selection()
    if (items.length > 0) action(items)
    else showNote(t('remote'), t('selectFirst'))
  }

  /**
   * @param {Item[]} items
   * @param {'Node' | 'Group'} what
   */
  const menuFor = (items, what) => [
    null,
    {
      content: t(items.every(isMarked) ? `unmark${what}` : `mark${what}`),
      callback: () => toggle(items)
    },
    { content: t(`mark${what}On`), callback: () => void choose(items) },
    { content: t('showCut'), callback: showCut }
  ]

  return {
    commands: [
      {
        id: MARK,
        label: t('commandMark'),
        icon: 'pi pi-cloud',
        function: withSelection(toggle)
      },
      {
        id: MARK_WHERE,
        label: t('markNodeOn'),
        icon: 'pi pi-cloud-upload',
        function: withSelection((items) => void choose(items))
      },
      { id: SHOW, label: t('showCut'), icon: 'pi pi-sitemap', function: showCut }
    ],
    /** Of the menu bar. */
    menu: [MARK, MARK_WHERE, SHOW],
    /** @param {unknown} item */
    getSelectionToolboxCommands: (item) =>
      canBeMarked(item) ? (isMarked(item) ? [MARK, MARK_WHERE, SHOW] : [MARK, MARK_WHERE]) : [],
    /** @param {LGraphNode} node */
    getNodeMenuItems: (node) => {
      const selected = selection()
      return menuFor(selected.includes(node) ? selected : [node], 'Node')
    },
    /** @param {LGraphCanvas} canvas */
    getCanvasMenuItems: (canvas) => {
      const [x, y] = canvas.graph_mouse
      const group = canvas.graph?.getGroupOnPos(x, y)
      return group ? menuFor([group], 'Group') : []
    }
  }
}

/**
 * @param {RemoteState} state
 * @param {Item[]} items
 * @param {string | null} part
 */
function markAndTell(state, items, part) {
  mark(items, part)
  void showCutInBrief(state)
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

/**
 * Ask where some nodes should run.
 *
 * @param {RemoteState} state
 * @param {string | null} current  Where they run now; null: here.
 * @returns {Promise<string | null | undefined>}  A target, '' for the switch's, null for here;
 *   undefined if nobody chose.
 */
function askForTarget(state, current) {
  const names = state.targets.map((target) => target.name)
  if (current && !names.includes(current)) names.push(current)
  const usual = state.usual()
  /** @type {[string, string][]} */
  const choices = [
    ['', usual ? t('targetOfSwitchNow', { target: usual }) : t('targetOfSwitch')],
    ...names.map((name) => /** @type {[string, string]} */ ([name, name])),
    [HERE, t('here')]
  ]
  const chosen = current ?? HERE
  return new Promise((resolve) => {
    const form = element(
      'form',
      { method: 'dialog' },
      ...choices.map(([value, label]) =>
        element(
          'label',
          { class: 'comfy-remote-choice' },
          element('input', { type: 'radio', name: 'part', value, checked: value === chosen }),
          label
        )
      ),
      button({ type: 'submit' }, t('ok'))
    )
    /** @type {string | null | undefined} */
    let answer
    form.addEventListener('submit', () => {
      const value = new FormData(form).get('part')
      answer = value === HERE ? null : /** @type {string} */ (value)
    })
    openDialog(t('askTarget'), form).addEventListener('close', () => resolve(answer))
  })
}
