// @ts-check
/** A card over the page that offers to bring what is missing, wherever the page says that it is. */

import { app } from '../../scripts/app.js'
import { button, element, icon } from './dom.js'
import { nodesOf } from './target_additions.js'
import { t } from './words.js'

/** @import { Bring } from './bring.js' */
/** @import { Want } from './bring_api.js' */

const MODEL = /\.(safetensors|sft|gguf|onnx|ckpt|pt2?|pth|bin)$/i

/**
 * @param {Bring} bring
 * @returns {{show: (want: Want) => void, hide: () => void, keepFor: (target: string | null) => void}}
 */
export function makeOffer(bring) {
  /** @type {HTMLElement | null} */
  let card = null
  let offered = ''
  const hide = () => {
    card?.remove()
    card = null
  }
  const keepFor = (/** @type {string | null} */ target) => {
    if (target !== offered) hide()
  }
  const show = (/** @type {Want} */ want) => {
    hide()
    offered = want.target
    card = element(
      'div',
      { class: 'comfy-remote-offer', role: 'status' },
      element('span', {}, t('bringLacks', { target: want.target })),
      button(
        {
          onclick: () => {
            hide()
            void bring(want)
          }
        },
        t('bringIt', { target: want.target })
      ),
      button({ class: 'comfy-remote-icon', 'aria-label': t('close'), title: t('close'), onclick: () => hide() }, icon('times'))
    )
    document.body.append(card)
  }
  return { show, hide, keepFor }
}

/**
 * @param {any} node  Of the graph.
 * @returns {boolean} Whether the page, or the target that refused it, says that it lacks its class or
 *   a model.
 */
export function isLacking(node) {
  const errors = /** @type {any} */ (app).lastNodeErrors?.[String(node.id)]?.errors ?? []
  if (errors.some((/** @type {any} */ one) => one?.extra_info?.comfy_remote_lacks)) return true
  // A shell: the page does not know the class.
  if (node.has_errors && !node.constructor?.nodeData && !node.isVirtualNode && !node.isSubgraphNode?.()) return true
  return (node.widgets ?? []).some((/** @type {any} */ widget) => {
    const values = widget.options?.values
    return widget.type === 'combo' && Array.isArray(values) && MODEL.test(String(widget.value)) && !values.includes(widget.value)
  })
}

/** @returns {boolean} Whether the open workflow has such a node. */
export function graphLacks() {
  return [...nodesOf(app.graph)].some(isLacking)
}
