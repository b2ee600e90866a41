// @ts-check
/** How a node's widgets are chosen to vary: its menu, the toolbox over a selection, a command. */

import { app } from '../../scripts/app.js'
import { button, element, openDialog } from './dom.js'
import { showNote } from './notices.js'
import { widgetsOf } from './vary.js'
import { t } from './words.js'

/** @import { LGraphNode } from './marks.js' */
/** @import { Varied, Varying } from './vary.js' */

const VARY = 'ComfyRemote.Vary'

/**
 * The members of our extension that concern what varies; all are hooks of the page.
 *
 * @param {Varying} varying
 * @param {() => void} showPanel
 */
export function varyMenus(varying, showPanel) {
  /** @param {LGraphNode | undefined} node */
  const choose = (node) => {
    if (node === undefined) return showNote(t('vary'), t('selectFirst'))
    const widgets = widgetsOf(node)
    if (widgets.length === 0) return showNote(t('vary'), t('varyNoWidgets'))
    askWhich(node, widgets, varying, showPanel)
  }
  return {
    commands: [
      {
        id: VARY,
        label: t('commandVary'),
        icon: 'pi pi-th-large',
        function: () => choose(selectedNode())
      }
    ],
    /** @param {unknown} item */
    getSelectionToolboxCommands: (item) => (isNode(item) && widgetsOf(item).length > 0 ? [VARY] : []),
    /** @param {LGraphNode} node */
    getNodeMenuItems: (node) => [{ content: t('varyNode'), callback: () => choose(node) }]
  }
}

/** @returns {LGraphNode | undefined} */
function selectedNode() {
  return [...app.canvas.selectedItems].find(isNode)
}

/**
 * @param {unknown} item
 * @returns {item is LGraphNode}
 */
function isNode(item) {
  return typeof item === 'object' && item !== null && 'widgets' in item && 'inputs' in item
}

/**
 * @param {LGraphNode} node
 * @param {Varied[]} widgets
 * @param {Varying} varying
 * @param {() => void} done
 */
function askWhich(node, widgets, varying, done) {
  const known = new Map(varying.of(String(node.id)).map((one) => [one.name, one]))
  const boxes = widgets.map((widget) => {
    const box = element('input', {
      type: 'checkbox',
      name: widget.input,
      checked: known.has(widget.name) || widgets.length === 1
    })
    return /** @type {const} */ ([widget, box])
  })
  const form = element(
    'form',
    { method: 'dialog' },
    ...boxes.map(([widget, box]) => element('label', { class: 'comfy-remote-choice' }, box, widget.input)),
    button({ type: 'submit' }, t('ok'))
  )
  form.addEventListener('submit', () => {
    for (const [widget, box] of boxes) {
      if (!box.checked) varying.drop(widget.name)
      else if (!known.has(widget.name)) varying.put(widget)
    }
    if (boxes.some(([, box]) => box.checked)) done()
  })
  openDialog(t('varyWhich', { name: node.title ?? '' }), form)
}
