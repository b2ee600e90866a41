// @ts-check
/** The one way from anything that is missing on a target to the plan that brings it there. */

import { app } from '../../scripts/app.js'
import { planLines, postBring } from './bring_api.js'
import { makeBrought } from './bring_list.js'
import { planForm } from './bring_plan.js'
import { sizeOf } from './amounts.js'
import { button, element, openDialog } from './dom.js'
import { wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { Doing, Plan, Want } from './bring_api.js' */
/** @import { BringState } from './bring_state.js' */

/** @typedef {(want: Want) => Promise<void>} Bring */

/** @type {Record<Doing['doing'], keyof import('./words.js').Words>} */
const DOING = { here: 'bringHere', target: 'bringAsks', reading: 'bringReads', sites: 'bringSites' }

/**
 * @param {BringState} brings
 * @param {(target: string) => Promise<boolean>} isUsable  Asks the user about a new address.
 * @returns {Bring} Opens the dialog. What is on its way to that target is shown instead of a plan.
 */
export function makeBring(brings, isUsable) {
  return async (want) => {
    if (!(await isUsable(want.target))) return
    const content = element('div', { class: 'comfy-remote-bring', 'aria-live': 'polite' })
    const dialog = openDialog(t('bringTitle', { target: want.target }), content)
    await brings.refresh()
    const running = brings.running(want.target)
    if (running) follow(content, dialog, brings, running.id)
    else await plan(content, dialog, brings, want)
  }
}

/**
 * @param {HTMLElement} content
 * @param {HTMLDialogElement} dialog
 * @param {BringState} brings
 * @param {Want} want
 */
async function plan(content, dialog, brings, want) {
  const { target } = want
  try {
    const { nodes, ...rest } = want
    const whole = want.job || want.again ? rest : { ...rest, ...(await openGraph(nodes)) }
    content.replaceChildren(t('bringHere'))
    for await (const line of planLines(whole)) {
      if (!dialog.isConnected) return // leaving the loop ends the request
      if (line.error) throw line.error
      if (line.members) return askMember(content, line.members, target, (member) => plan(content, dialog, brings, { ...want, target: member }))
      if (line.plan) return showPlan(content, dialog, brings, line.plan)
      if (line.doing) content.textContent = doingWords(/** @type {Doing} */ (line), target)
    }
  } catch (error) {
    content.replaceChildren(
      element('p', { class: 'comfy-remote-problem', role: 'alert' }, wordsOf(error)),
      element('div', { class: 'comfy-remote-answers' }, button({ onclick: () => plan(content, dialog, brings, want) }, t('askAgain')))
    )
  }
}

/**
 * @param {HTMLElement} content
 * @param {HTMLDialogElement} dialog
 * @param {BringState} brings
 * @param {Plan} made
 */
function showPlan(content, dialog, brings, made) {
  const begin = async (/** @type {number[]} */ steps) => {
    const begun = await postBring(made.id, steps)
    await brings.refresh()
    follow(content, dialog, brings, begun.id)
  }
  content.replaceChildren(planForm(made, begin, () => dialog.close()))
}

/**
 * @param {HTMLElement} content
 * @param {HTMLDialogElement} dialog
 * @param {BringState} brings
 * @param {string} id
 */
function follow(content, dialog, brings, id) {
  const shown = makeBrought(brings, (want) => plan(content, dialog, brings, want), false)
  const foot = element('p', { class: 'comfy-remote-foot' })
  const show = () => {
    if (!shown.root.isConnected) return brings.removeEventListener('changed', show)
    const one = brings.list.find((each) => each.id === id)
    if (!one) return
    shown.show(one)
    foot.hidden = one.state !== 'running' && one.state !== 'ended'
    foot.textContent = t(one.state === 'running' ? 'bringGoesOn' : 'bringThenRun')
  }
  content.replaceChildren(shown.root, foot)
  brings.addEventListener('changed', show)
  show()
}

/**
 * @param {HTMLElement} content
 * @param {string[]} members
 * @param {string} route
 * @param {(member: string) => void} chosen
 */
function askMember(content, members, route, chosen) {
  content.replaceChildren(
    element('p', {}, t('bringMembers', { target: route })),
    element(
      'div',
      { class: 'comfy-remote-answers' },
      ...members.map((name) => button({ onclick: () => chosen(name) }, name))
    )
  )
}

/**
 * @param {Doing} doing
 * @param {string} target
 */
function doingWords({ doing, done, total }, target) {
  return t(DOING[doing], { target, done: sizeOf(done), total: sizeOf(total) })
}

/**
 * The open graph, as a job would need it. A node that the page does not know has no class in what
 * the page makes of it, but still its type.
 *
 * @param {string[]} [nodes]  Without the others.
 */
async function openGraph(nodes) {
  const { output, workflow } = await app.graphToPrompt()
  /** @type {Record<string, any>} */
  const prompt = {}
  for (const [id, node] of Object.entries(/** @type {Record<string, any>} */ (output))) {
    const type = node.class_type ?? nodeAt(id)?.type
    if (typeof type === 'string' && (nodes?.includes(id) ?? true)) prompt[id] = { ...node, class_type: type, inputs: node.inputs ?? {} }
  }
  return { prompt, workflow }
}

/**
 * @param {string} id  `3`, or `7:3` in a subgraph.
 * @returns {any}
 */
function nodeAt(id) {
  /** @type {any} */
  let graph = /** @type {any} */ (app).rootGraph ?? app.graph
  let node = null
  for (const part of id.split(':')) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part))
    graph = node?.subgraph
  }
  return node
}
