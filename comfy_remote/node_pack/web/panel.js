// @ts-check
/** The Remote panel, in the sidebar and in the settings. */

import { app } from '../../scripts/app.js'
import { button, element, icon } from './dom.js'
import { makeJobList } from './job_list.js'
import { asRemoteError, getDetails, wordsOf } from './remote_api.js'
import { targetFacts } from './target_facts.js'
import { t } from './words.js'

/** @import { Details, RemoteError } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

// The jobs are asked for more often: see job_list.js.
const STATUS_SECONDS = 6
const DETAILS_SECONDS = 6
const OTHER = '\0other'
const REPO_LIST = 'repo_list'

/**
 * @typedef {object} OwnActions
 * @property {() => void} toggle
 * @property {(target: string) => void} choose
 * @property {(wanted: boolean) => void} askForModels
 * @property {() => void} showCut
 *
 * @typedef {OwnActions & import('./job_actions.js').JobActions} Actions
 */

/**
 * Draw the panel, and keep it up to date while it is in the document.
 *
 * @param {RemoteState} state
 * @param {Actions} actions
 * @returns {HTMLElement}
 */
export function makePanel(state, actions) {
  const toggle = button({ role: 'switch', onclick: actions.toggle })
  const choice = element('select', { 'aria-label': t('target') })
  const address = element('input', {
    type: 'text',
    'aria-label': t('addressLabel'),
    placeholder: t('addressExample'),
    spellcheck: 'false'
  })
  const form = element(
    'form',
    { class: 'comfy-remote-address', hidden: true },
    address,
    button({ type: 'submit' }, t('use'))
  )
  const facts = element('div', { 'aria-live': 'polite' })
  const unused = element('div', {})
  const jobs = makeJobList(state, actions)
  const skip = element('input', {
    type: 'checkbox',
    onchange: () => actions.askForModels(!skip.checked)
  })
  const models = element(
    'label',
    { class: 'comfy-remote-choice', title: t('skipRepoListHelp'), hidden: true },
    skip,
    t('skipRepoList')
  )
  const problem = element('p', { class: 'comfy-remote-problem', role: 'alert', hidden: true })
  const root = element(
    'section',
    { class: 'comfy-remote-panel', 'aria-label': 'Comfy Remote' },
    element('header', {}, element('h2', {}, icon('cloud'), ` ${t('remote')}`), toggle),
    problem,
    element('label', { class: 'comfy-remote-caption' }, t('target'), choice),
    form,
    facts,
    models,
    unused,
    jobs.root,
    element('h3', {}, t('partOfGraph')),
    element('p', { class: 'comfy-remote-foot' }, t('partOfGraphHelp')),
    button({ onclick: actions.showCut }, t('showCut')),
    element('p', { class: 'comfy-remote-foot' }, t('keysStay'))
  )

  /** @type {Details | RemoteError | null} */
  let details = null
  let shownTarget = ''
  let ownAddress = false

  const show = () => {
    const on = state.target !== null
    toggle.textContent = t(on ? 'on' : 'off')
    toggle.setAttribute('aria-checked', String(on))
    toggle.setAttribute('aria-label', t('sendToTarget'))
    toggle.classList.toggle('comfy-remote-on', on)
    toggle.disabled = state.switching
    showChoice(choice, state, state.usual())
    if (ownAddress) choice.value = OTHER
    form.hidden = !ownAddress
    const target = state.find(state.usual())
    const fresh = targetFacts(target, details)
    // Replaced only when it has changed, so that text can be selected.
    if (!facts.firstChild?.isEqualNode(fresh)) facts.replaceChildren(fresh)
    const sentences = state.unused.map((text) => element('p', { class: 'comfy-remote-advice' }, text))
    if (unused.textContent !== state.unused.join('')) unused.replaceChildren(...sentences)
    models.hidden = !hasRepoList()
    skip.checked = !state.repoList
    jobs.show()
  }

  const askTarget = async () => {
    const target = state.usual()
    if (!target) return
    /** @type {Details | RemoteError} */
    let found
    try {
      found = await getDetails(target)
    } catch (error) {
      found = asRemoteError(error)
    }
    state.answered(target, found)
    if (state.usual() !== target) return
    details = found
    show()
  }

  const askStatus = async () => {
    try {
      await state.refresh()
      problem.hidden = true
    } catch (error) {
      problem.hidden = false
      problem.textContent = wordsOf(error)
    }
  }

  const changed = () => {
    const target = state.usual() ?? ''
    if (target !== shownTarget) {
      shownTarget = target
      details = null
      void askTarget()
    }
    show()
  }

  choice.addEventListener('change', () => {
    ownAddress = choice.value === OTHER
    if (ownAddress) {
      show()
      address.focus()
    } else {
      actions.choose(choice.value)
    }
  })
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    const typed = address.value.trim().replace(/\/+$/, '')
    if (!typed) return
    ownAddress = false
    actions.choose(typed)
  })
  // The graph must not take what is typed here for its own shortcuts.
  root.addEventListener('keydown', (event) => {
    if (event.target instanceof HTMLInputElement) event.stopPropagation()
  })

  state.addEventListener('changed', changed)
  changed()
  void askStatus()
  let tick = 0
  const timer = setInterval(() => {
    if (!root.isConnected) {
      clearInterval(timer)
      state.removeEventListener('changed', changed)
      return
    }
    if (document.hidden) return
    tick += STATUS_SECONDS
    void askStatus()
    if (tick % DETAILS_SECONDS === 0) void askTarget()
  }, STATUS_SECONDS * 1000)
  return root
}

/** Whether a node of the open graph lists models. */
function hasRepoList() {
  return (app.graph?.nodes ?? []).some((node) => node.title?.toLowerCase() === REPO_LIST)
}

/**
 * @param {HTMLSelectElement} choice
 * @param {RemoteState} state
 * @param {string | null} chosen
 */
function showChoice(choice, state, chosen) {
  // A list that is open would close under the pointer.
  if (document.activeElement === choice && choice.options.length > 1) return
  const names = state.targets.map((target) => target.name)
  if (chosen && !state.find(chosen)) names.push(chosen)
  const options = names.map((name) => element('option', { value: name }, name))
  if (!chosen) options.unshift(element('option', { value: '', disabled: true }, t('chooseOne')))
  options.push(element('option', { value: OTHER }, t('otherAddress')))
  choice.replaceChildren(...options)
  choice.value = state.find(chosen)?.name ?? chosen ?? ''
}
