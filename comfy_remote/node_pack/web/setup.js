// @ts-check
/** Adding and changing targets, in the panel: what kind, where, the key, a test. */

import { button, element, icon } from './dom.js'
import { deleteTarget, postAccount, putTarget, wordsOf } from './remote_api.js'
import { routeFields } from './route_form.js'
import { t } from './words.js'

/** @import { Finding, Form, Setup, Target } from './remote_api.js' */

const RUNPOD_KEYS = 'https://console.runpod.io/user/settings'
const MODAL_TOKENS = 'https://modal.com/settings/proxy-auth-tokens'
const COMFY_KEYS = 'https://platform.comfy.org/profile/api-keys'
const HELP = 'https://github.com/comfy-remote/comfy-remote/blob/main/docs/page.md#add-a-target'

/** @type {Record<Form['kind'], {title: WordKey, help: WordKey, icon: string}>} */
const KINDS = {
  runpod: { title: 'addRunpod', help: 'addRunpodHelp', icon: 'bolt' },
  comfyui: { title: 'addComfyui', help: 'addComfyuiHelp', icon: 'desktop' },
  gateway: { title: 'addGateway', help: 'addGatewayHelp', icon: 'server' },
  modal: { title: 'addModal', help: 'addModalHelp', icon: 'box' },
  comfy: { title: 'addComfy', help: 'addComfyHelp', icon: 'cloud' },
  route: { title: 'addRoute', help: 'addRouteHelp', icon: 'directions' }
}
const MARKS = { ok: 'check', warning: 'exclamation-triangle', problem: 'times', skipped: 'minus' }

/** @typedef {keyof import('./words.js').Words} WordKey */

/**
 * @typedef {object} Actions
 * @property {(name: string) => void} added  It has been written.
 * @property {() => void} close
 * @property {() => void} useSandbox
 * @property {(key: string | null) => Promise<void>} makeOne  Show how an endpoint is made at RunPod,
 *   with the key that was typed, or with the one that the server knows.
 */

/**
 * What somebody sees who has no target yet: what this is, and the ways to begin.
 *
 * @param {Setup | null} setup
 * @param {(kind: Form['kind']) => void} choose
 * @param {Actions} actions
 * @returns {HTMLElement}
 */
export function makeWelcome(setup, choose, actions) {
  return element(
    'div',
    { class: 'comfy-remote-setup' },
    ...['welcomeWhat', 'welcomeHow', 'welcomeCost'].map((key) =>
      element('p', {}, t(/** @type {WordKey} */ (key)))
    ),
    makeKinds(setup, choose),
    element('p', { class: 'comfy-remote-foot' }, t('noGpuYet')),
    button({ onclick: actions.useSandbox }, t('useSandbox'))
  )
}

/**
 * The kinds to choose from.
 *
 * @param {Setup | null} setup
 * @param {(kind: Form['kind']) => void} choose
 * @returns {HTMLElement}
 */
export function makeKinds(setup, choose) {
  if (setup?.refused) return note('advice', setup.refused)
  const kinds = /** @type {Form['kind'][]} */ (Object.keys(KINDS))
  return element(
    'div',
    { class: 'comfy-remote-kinds' },
    element('h3', {}, t('addTarget')),
    ...kinds.map((kind) =>
      button(
        { class: 'comfy-remote-kind', 'data-kind': kind, onclick: () => choose(kind) },
        icon(KINDS[kind].icon),
        element(
          'span',
          {},
          element('strong', {}, t(KINDS[kind].title)),
          element('small', {}, t(KINDS[kind].help))
        )
      )
    ),
    link(HELP, t('helpLink'))
  )
}

/**
 * The form for one kind. It stays as it is filled in until it was accepted, but for a key that
 * the server has stored.
 *
 * @param {Form['kind']} kind
 * @param {Setup} setup
 * @param {Actions} actions
 * @param {string[]} names  Of the targets that there are, for a route.
 * @param {Target | null} changed  The target that is to be changed.
 * @returns {HTMLElement}
 */
export function makeForm(kind, setup, actions, names, changed = null) {
  const before = changed?.form ?? null
  const fields = makeFields(kind, names, changed)
  const mayType = window.isSecureContext
  const results = element('ul', { class: 'comfy-remote-checks', 'aria-live': 'polite' })
  const problem = note('problem', '')
  problem.setAttribute('role', 'alert')
  problem.hidden = true
  const anyway = button({ hidden: true, onclick: () => void add(false) }, t('addAnyway'))
  const submit = button({ type: 'submit', class: 'comfy-remote-button comfy-remote-on' },
    t(changed ? 'testAndSave' : 'testAndAdd'))
  const found = element('div', { class: 'comfy-remote-found' })
  const listing = button({ onclick: () => void list() }, t('showAccount'))

  /** @param {unknown} error */
  const fail = (error) => {
    problem.hidden = false
    problem.textContent = typeof error === 'string' ? error : wordsOf(error)
  }

  /** @param {boolean} busy */
  const work = (busy) => {
    for (const one of root.querySelectorAll('button')) one.disabled = busy
    submit.setAttribute('aria-busy', String(busy))
    if (busy) {
      problem.hidden = true
      anyway.hidden = true
      results.replaceChildren()
    }
  }

  /** @param {boolean} test */
  const add = async (test) => {
    work(true)
    try {
      for await (const line of putTarget({ ...fields.values(), replaces: changed?.name ?? null, test })) {
        if (line.finding) results.append(shown(line.finding))
        else if (line.added) {
          fields.forget()
          actions.added(line.added)
          return
        } else if (line.refused) {
          fail(t('nothingWritten'))
          anyway.hidden = false
        } else if (line.error) fail(line.error)
      }
    } catch (error) {
      fail(error)
    } finally {
      work(false)
    }
  }

  const makeOne = button(
    {
      onclick: async () => {
        work(true)
        try {
          await actions.makeOne(fields.key.value.trim() || null)
          fields.forget()
        } catch (error) {
          fail(error)
        } finally {
          work(false)
        }
      }
    },
    t('deployMake')
  )

  const list = async () => {
    work(true)
    try {
      const account = await postAccount(fields.key.value.trim() || null)
      fields.forget()
      if (account.stored) fields.isStored(account.stored)
      const rows = account.targets.map((target) =>
        button(
          {
            class: 'comfy-remote-kind',
            'data-address': target.address,
            onclick: () => {
              fields.address.value = target.address
              fields.name.value = fields.name.value.trim() || nameFor(target)
              void add(true)
            }
          },
          icon(target.address.startsWith('pod:') ? 'desktop' : 'bolt'),
          element(
            'span',
            {},
            element('strong', {}, target.name || target.address),
            element('small', {}, target.text)
          )
        )
      )
      const ask = element('p', {}, t('chooseTarget'))
      found.replaceChildren(...(rows.length > 0 ? [ask, ...rows] : [note('advice', t('accountEmpty'))]))
    } catch (error) {
      fail(error)
    } finally {
      work(false)
    }
  }

  const takesKey = kind !== 'route'
  const keyBox = mayType || !takesKey
    ? fields.keyBox(setup)
    : note('advice', t('keyElsewhere', { line: KEY_LINES[kind], file: setup.keys }))
  listing.hidden = makeOne.hidden = !mayType && !setup.account
  const asksAccount = kind === 'runpod' && !changed
  const makeMore = () =>
    element(
      'details',
      { open: changed !== null },
      element('summary', {}, t('moreSettings')),
      ...(kind === 'comfyui' && mayType ? [keyBox] : []),
      ...fields.more
    )
  const root = element(
    'form',
    { class: 'comfy-remote-setup', 'data-kind': kind, novalidate: true, autocomplete: 'off' },
    element('h3', {}, changed ? t('changeTarget', { target: changed.name }) : t(KINDS[kind].title)),
    ...(asksAccount
      ? [keyBox, listing, found, makeOne, element('p', { class: 'comfy-remote-foot' }, t('orByAddress'))]
      : []),
    fields.addressBox,
    ...(asksAccount || !takesKey || (kind === 'comfyui' && mayType) ? [] : [keyBox]),
    ...(takesKey ? [makeMore()] : fields.more),
    results,
    problem,
    element(
      'div',
      { class: 'comfy-remote-answers' },
      button({ onclick: actions.close }, t('back')),
      anyway,
      submit
    ),
    ...(before && takesKey ? [element('p', { class: 'comfy-remote-foot' }, t('keyStaysWithServer'))] : [])
  )
  root.addEventListener('submit', (event) => {
    event.preventDefault()
    if (asksAccount && !fields.address.value.trim()) void list()
    else void add(true)
  })
  // Where the key is known, there is nothing to type.
  if (asksAccount && setup.account) void Promise.resolve().then(list)
  setTimeout(() => root.querySelector('input')?.focus())
  return root
}

/**
 * Remove a target, once its user has said so.
 *
 * @param {Target} target
 * @param {() => void} done
 * @param {() => void} close
 * @param {HTMLElement} more  What else may be removed.
 * @returns {HTMLElement}
 */
export function makeRemoval(target, done, close, more) {
  const problem = note('problem', '')
  problem.hidden = true
  const remove = async () => {
    try {
      await deleteTarget(target.name)
      done()
    } catch (error) {
      problem.hidden = false
      problem.textContent = wordsOf(error)
    }
  }
  return element(
    'div',
    { class: 'comfy-remote-setup', role: 'alertdialog' },
    element('p', {}, t('askRemove', { target: target.name })),
    problem,
    element(
      'div',
      { class: 'comfy-remote-answers' },
      button({ onclick: close }, t('cancel')),
      button({ onclick: () => void remove() }, t('remove'))
    ),
    more
  )
}

/**
 * @param {Form['kind']} kind
 * @param {string[]} names
 * @param {Target | null} changed
 */
function makeFields(kind, names, changed) {
  const before = changed?.form ?? null
  const address = input({ placeholder: EXAMPLES[kind], value: before?.address ?? '' })
  const endpoint = input({ placeholder: 'local', value: before?.endpoint ?? '' })
  const name = input({ value: changed?.name ?? '' })
  const price = input({
    type: 'number',
    min: '0',
    step: 'any',
    placeholder: '0.69',
    value: before?.price_per_hour?.toString() ?? ''
  })
  const route = kind === 'route' ? routeFields(before, names.filter((one) => one !== changed?.name)) : null
  const key = secretInput()
  const secret = secretInput()
  const known = changed?.key.set ?? false
  const status = element('p', { class: 'comfy-remote-foot', hidden: true })
  return {
    address,
    name,
    key,
    addressBox: route?.root ?? element(
      'div',
      {},
      labelled(t(ADDRESS_LABELS[kind]), address),
      ADDRESS_HELP[kind] ? element('p', { class: 'comfy-remote-foot' }, t(ADDRESS_HELP[kind])) : null
    ),
    more: [
      labelled(t('nameLabel'), name),
      ...(kind === 'gateway' ? [labelled(t('endpointLabel'), endpoint)] : []),
      ...(route ? [] : [labelled(t('priceLabel'), price)])
    ],
    /** @param {Setup} setup */
    keyBox: (setup) => {
      const isKnown = kind === 'runpod' ? setup.account : known
      for (const one of [key, secret]) if (isKnown) one.placeholder = t('keyKnown')
      return element(
        'div',
        { class: 'comfy-remote-keys' },
        labelled(t(KEY_LABELS[kind]), key),
        ...(kind === 'modal' ? [labelled(t('modalSecretLabel'), secret)] : []),
        status,
        element(
          'p',
          { class: 'comfy-remote-foot' },
          t(kind === 'comfyui' ? 'keyOnlyIfAsked' : 'keyGoesOnce'),
          ' ',
          ...(kind === 'runpod' ? [link(RUNPOD_KEYS, t('whereIsTheKey'))] : []),
          ...(kind === 'modal' ? [link(MODAL_TOKENS, t('whereIsTheKey'))] : []),
          ...(kind === 'comfy' ? [link(COMFY_KEYS, t('whereIsTheKey'))] : [])
        )
      )
    },
    /** @param {string} where  The server has the key there. */
    isStored: (where) => {
      status.hidden = false
      status.textContent = t('keyIsIn', { where })
      key.placeholder = t('keyKnown')
    },
    /** Once the server has it, no key stays in the page. */
    forget: () => {
      key.value = ''
      secret.value = ''
    },
    /** @returns {Form} */
    values: () => ({
      kind,
      address: route?.address() ?? address.value.trim(),
      prefer: route?.prefer() ?? null,
      endpoint: endpoint.value.trim(),
      name: name.value.trim(),
      price_per_hour: price.value.trim() === '' ? null : Number(price.value),
      key: key.value.trim() || null,
      secret: secret.value.trim() || null
    })
  }
}

/** @type {Record<Form['kind'], string>} */
const EXAMPLES = {
  runpod: 'abc123xyz',
  comfyui: '192.168.1.20:8188',
  gateway: 'https://box.local:8000',
  modal: 'portraits',
  comfy: 'cloud',
  route: ''
}

/** @type {Record<Form['kind'], WordKey>} */
const ADDRESS_LABELS = {
  runpod: 'runpodAddress',
  comfyui: 'comfyuiAddress',
  gateway: 'gatewayAddress',
  modal: 'modalAddress',
  comfy: 'comfyAddress',
  route: 'routeMembers'
}

/** @type {Partial<Record<Form['kind'], WordKey>>} */
const ADDRESS_HELP = {
  comfyui: 'comfyuiAddressHelp',
  gateway: 'gatewayAddressHelp',
  comfy: 'comfyAddressHelp'
}

/** @type {Record<Form['kind'], WordKey>} */
const KEY_LABELS = {
  runpod: 'runpodKey',
  comfyui: 'comfyuiKey',
  gateway: 'gatewayKey',
  modal: 'modalKey',
  comfy: 'comfyKey',
  route: 'key'
}

/** What a person writes into a file instead. @type {Record<Form['kind'], string>} */
const KEY_LINES = {
  runpod: 'RUNPOD_API_KEY=…',
  comfyui: 'COMFY_REMOTE_KEY_…=…',
  gateway: 'COMFY_REMOTE_KEY_…=…',
  modal: 'MODAL_PROXY_TOKEN_ID=…, MODAL_PROXY_TOKEN_SECRET=…',
  comfy: 'COMFY_API_KEY=…',
  route: ''
}

/** @param {{name: string, address: string}} target */
function nameFor({ name, address }) {
  const words = name.replace(/[^A-Za-z0-9_.-]+/g, '-').replace(/^[-._]+|[-._]+$/g, '')
  return words.toLowerCase().slice(0, 64) || address.split(':')[1]
}

/** @param {Finding} finding */
function shown({ status, message, advice }) {
  return element(
    'li',
    { class: `comfy-remote-check-${status}` },
    icon(MARKS[status]),
    element(
      'span',
      {},
      message,
      advice && status !== 'ok' ? element('small', {}, advice) : null
    )
  )
}

/** @param {Record<string, string>} attributes */
function input(attributes) {
  return element('input', { type: 'text', spellcheck: 'false', autocomplete: 'off', ...attributes })
}

/** No browser fills it in, or offers to keep it. */
function secretInput() {
  return input({ type: 'password', autocomplete: 'one-time-code', 'data-lpignore': 'true', 'data-1p-ignore': '' })
}

/**
 * @param {string} text
 * @param {HTMLElement} field
 */
function labelled(text, field) {
  return element('label', { class: 'comfy-remote-caption' }, text, field)
}

/**
 * @param {string} href
 * @param {string} text
 */
function link(href, text) {
  return element('a', { href, target: '_blank', rel: 'noreferrer' }, text)
}

/**
 * @param {'problem' | 'advice'} kind
 * @param {string} text
 */
function note(kind, text) {
  return element('p', { class: `comfy-remote-${kind}` }, text)
}
