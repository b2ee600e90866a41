// @ts-check
/** The Remote panel, in the sidebar and in the settings. */

import { app } from '../../scripts/app.js'
import { makeBatchList } from './batch_list.js'
import { makeBringList } from './bring_list.js'
import { makeCondition } from './condition.js'
import { costSentences } from './cost_words.js'
import { askOptions, makeDeployment, offerRemoval } from './deploy_runpod.js'
import { button, element, icon } from './dom.js'
import { makeJobList } from './job_list.js'
import { showNote } from './notices.js'
import { asRemoteError, getDetails, wordsOf } from './remote_api.js'
import { makeSpending } from './spending.js'
import { makeForm, makeKinds, makeRemoval, makeWelcome } from './setup.js'
import { targetFacts } from './target_facts.js'
import { makeUntrusted } from './untrusted.js'
import { makeVaryPanel } from './vary_panel.js'
import { t } from './words.js'

/** @import { Cost } from './cost.js' */
/** @import { Details, Form, RemoteError, Target } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */
/** @import { Varying } from './vary.js' */

// The jobs are asked for more often: see job_list.js.
const STATUS_SECONDS = 6
const DETAILS_SECONDS = 6
const OTHER = '\0other'
const REPO_LIST = 'repo_list'

/**
 * @typedef {object} OwnActions
 * @property {() => void} toggle
 * @property {(target: string) => void} choose
 * @property {(name: string, before: string | null) => void} added  A target was written.
 * @property {(name: string) => void} removed  A target was removed.
 * @property {(wanted: boolean) => void} askForModels
 * @property {() => void} showCut
 * @property {import('./bring.js').Bring} bring
 *
 * @typedef {OwnActions & import('./job_actions.js').JobActions} Actions
 */

/**
 * Draw the panel, and keep it up to date while it is in the document.
 *
 * @param {RemoteState} state
 * @param {Cost} cost
 * @param {Actions} actions
 * @param {Varying} varying
 * @param {import('./bring_state.js').BringState} brings
 * @returns {HTMLElement}
 */
export function makePanel(state, cost, actions, varying, brings) {
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
  const unused = makeUntrusted(state)
  const change = button({ onclick: () => editTarget() }, t('change'))
  const remove = button({ onclick: () => removeTarget() }, t('remove'))
  const changes = element(
    'div',
    { class: 'comfy-remote-changes' },
    button({ onclick: () => chooseKind() }, t('addTarget')),
    change,
    remove
  )
  const setup = element('div', { hidden: true })
  const begun = element('p', {})
  const underWay = element(
    'div',
    { class: 'comfy-remote-condition', hidden: true },
    begun,
    button({ onclick: () => deploy() }, t('show'))
  )
  const condition = element('div', {})
  const price = element('p', { class: 'comfy-remote-run-cost', hidden: true })
  const spending = makeSpending(state)
  const jobs = makeJobList(state, actions, spending.showToday)
  const batches = makeBatchList()
  const bringing = makeBringList(brings, actions.bring)
  const bring = button({
    class: 'comfy-remote-button comfy-remote-wide',
    onclick: () => {
      const target = state.usual()
      if (target) void actions.bring({ target })
    }
  })
  const vary = makeVaryPanel(state, varying, ({ count, target }) => {
    showNote(t('batchStarted'), t('batchStartedHelp', { count, target: target ?? t('here') }))
    batches.ask()
  }, actions.bring)
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
  const usual = element(
    'div',
    { class: 'comfy-remote-usual' },
    element('label', { class: 'comfy-remote-caption' }, t('target'), choice),
    form,
    condition,
    price,
    changes,
    facts,
    bring,
    bringing.root,
    models,
    jobs.root,
    spending.caps,
    element('h3', {}, t('partOfGraph')),
    element('p', { class: 'comfy-remote-foot' }, t('partOfGraphHelp')),
    button({ onclick: actions.showCut }, t('showCut')),
    element('p', { class: 'comfy-remote-foot' }, t('keysStay'))
  )
  const root = element(
    'section',
    { class: 'comfy-remote-panel', 'aria-label': 'Comfy Remote' },
    element('header', {}, element('h2', {}, icon('cloud'), ` ${t('remote')}`), toggle),
    spending.head,
    problem,
    unused.root,
    underWay,
    setup,
    usual,
    vary.root,
    batches.root
  )

  /** @type {Details | RemoteError | null} */
  let details = null
  let shownTarget = ''
  let ownAddress = false
  /** What is being set up: nothing, the first target, or one chosen below. */
  let doing = ''

  /**
   * Show a form, or what leads to one, instead of the rest; it stays until it is closed.
   *
   * @param {string} what  Empty: nothing any more.
   * @param {HTMLElement[]} shown
   */
  const setUp = (what, ...shown) => {
    doing = what
    setup.replaceChildren(...shown)
    show()
  }
  const close = () => setUp('')
  /** @param {Target | null} changed */
  const ways = (changed) => ({
    close,
    useSandbox: () => {
      close()
      actions.added('sandbox', null)
    },
    /** @param {string} name */
    added: (name) => {
      close()
      shownTarget = '' // what it said before is out of date
      actions.added(name, changed?.name ?? null)
    },
    /** @param {string | null} key */
    makeOne: async (key) => deploy({ options: await askOptions(varying.graph, key) })
  })
  /** @param {Parameters<typeof makeDeployment>[3]} begin */
  const deploy = (begin = {}) => {
    const { added } = ways(null)
    const file = state.setup?.file ?? ''
    const on = { close, added, removed: actions.removed }
    setUp('form', makeDeployment(varying.graph, file, on, begin))
  }
  const chooseKind = () =>
    setUp('kind', makeKinds(state.setup, fillIn), button({ onclick: close }, t('back')))
  // A route chooses among targets, and not among routes.
  const memberNames = () => state.targets.filter(({ type }) => type !== 'route').map(({ name }) => name)
  /** @param {Form['kind']} kind */
  const fillIn = (kind) => {
    if (state.setup) setUp('form', makeForm(kind, state.setup, ways(null), memberNames()))
  }
  const editTarget = () => {
    const target = state.find(state.usual())
    if (target?.form && state.setup) {
      setUp('form', makeForm(target.form.kind, state.setup, ways(target), memberNames(), target))
    }
  }
  const removeTarget = () => {
    const target = state.find(state.usual())
    if (!target?.form) return
    const removed = () => {
      close()
      actions.removed(target.name)
    }
    const more = offerRemoval(target.address, (remove) => deploy({ remove }))
    setUp('removal', makeRemoval(target, removed, close, more))
  }

  const show = () => {
    if (state.empty && doing === '') setUp('first', makeWelcome(state.setup, fillIn, ways(null)))
    if (!state.empty && doing === 'first') return close()
    const deploying = state.setup?.refused ? [] : (state.setup?.deploying ?? [])
    underWay.hidden = doing === 'form' || deploying.length === 0
    begun.textContent = t('deployUnderWay', { name: deploying.join(', ') })
    setup.hidden = doing === ''
    usual.hidden = doing !== ''
    const target = state.usual()
    const known = state.find(target)
    change.textContent = t(known?.key.needed && !known.key.set ? 'giveKey' : 'change')
    change.hidden = remove.hidden = !known?.form || Boolean(state.setup?.refused)
    const on = state.target !== null
    toggle.textContent = t(on ? 'on' : 'off')
    toggle.setAttribute('aria-checked', String(on))
    toggle.setAttribute('aria-label', t('sendToTarget'))
    toggle.classList.toggle('comfy-remote-on', on)
    toggle.disabled = state.switching
    toggle.hidden = state.empty
    showChoice(choice, state, state.usual())
    if (ownAddress) choice.value = OTHER
    form.hidden = !ownAddress
    const how = makeCondition(state, {
      fix: known?.form && !state.setup?.refused ? editTarget : null,
      fixWords: known?.key.needed && !known.key.set ? t('giveKey') : t('change'),
      off: actions.toggle,
      again: () => void askTarget()
    })
    replaced(condition, how)
    const fresh = targetFacts(known, details, how !== null, !change.hidden)
    // Replaced only when it has changed, so that text can be selected.
    if (!facts.firstChild?.isEqualNode(fresh)) facts.replaceChildren(fresh)
    unused.show()
    bring.hidden = !target || known?.type === 'sandbox' || Boolean(state.setup?.refused)
    bring.textContent = t('bringOpen', { target: target ?? '' })
    models.hidden = !hasRepoList()
    skip.checked = !state.repoList
    jobs.show()
  }

  const showCost = () => {
    const { estimate, runs } = cost
    price.hidden = estimate === null
    if (estimate !== null) price.textContent = costSentences(estimate, runs)
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
    const typing = [HTMLInputElement, HTMLTextAreaElement, HTMLSelectElement]
    if (typing.some((kind) => event.target instanceof kind)) event.stopPropagation()
  })

  state.addEventListener('changed', changed)
  cost.addEventListener('changed', showCost)
  brings.addEventListener('changed', bringing.show)
  bringing.show()
  void brings.refresh()
  changed()
  showCost()
  void askStatus()
  let tick = 0
  const timer = setInterval(() => {
    if (!root.isConnected) {
      clearInterval(timer)
      state.removeEventListener('changed', changed)
      cost.removeEventListener('changed', showCost)
      brings.removeEventListener('changed', bringing.show)
      return
    }
    if (document.hidden) return
    tick += STATUS_SECONDS
    void askStatus()
    if (tick % DETAILS_SECONDS === 0) void askTarget()
  }, STATUS_SECONDS * 1000)
  return root
}

/**
 * Replaced only when it has changed: a button that is being pressed stays.
 *
 * @param {HTMLElement} place
 * @param {HTMLElement | null} fresh
 */
function replaced(place, fresh) {
  if (fresh === null) place.replaceChildren()
  else if (!place.firstChild?.isEqualNode(fresh)) place.replaceChildren(fresh)
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
