// @ts-check
/**
 * Comfy Remote in ComfyUI's page: a switch in the top bar, a panel, a command, settings.
 *
 * ComfyUI imports every module of this folder; this one registers the extension, the others
 * do nothing by themselves. Nothing of the page is patched: the server sends a prompt
 * elsewhere when this tab has asked for it.
 */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { askForNodes, mayUse } from './confirm_dialog.js'
import { makeBring } from './bring.js'
import { graphLacks, isLacking, makeOffer } from './bring_offer.js'
import { BringState } from './bring_state.js'
import { Cost } from './cost.js'
import { listenToSheets } from './batch_list.js'
import { showCut } from './cut_dialog.js'
import { addStyles, openDialog } from './dom.js'
import { jobActions, nameJob } from './job_actions.js'
import { markMenus } from './mark_menus.js'
import { addBadge } from './marks.js'
import { showError, showNote, showProblem, showWarning } from './notices.js'
import { OpenGraph } from './open_graph.js'
import { OPEN_PACKED, packedMenus } from './open_packed.js'
import { askToRunOver } from './over_cap.js'
import { makePanel } from './panel.js'
import { REMOTE_API, makeItGrow } from './remote_api_node.js'
import { ServerPartMissing, getAddress } from './remote_api.js'
import { RemoteState } from './remote_state.js'
import { TargetLists } from './target_additions.js'
import { addToTopBar } from './top_bar.js'
import { Varying, addVaryBadge } from './vary.js'
import { varyMenus } from './vary_menus.js'
import { t } from './words.js'

/** @import { Definitions } from './target_additions.js' */

const PANEL = 'comfy-remote'
const BRING = 'ComfyRemote.Bring'
const WAKING_SECONDS = 10
const SIDEBAR_MS = 1500
const PANEL_MS = 100
const TARGET_SETTING = 'ComfyRemote.Target'
const CACHE_SETTING = 'ComfyRemote.Cache'
const CONFIGURED = 'configured'

const state = new RemoteState(preset, cacheMode)
const graph = new OpenGraph()
const cost = new Cost(state, graph)
const brings = new BringState()
const bring = makeBring(brings, isUsable)
const offer = makeOffer(bring)
const actions = {
  toggle,
  choose,
  added,
  removed,
  ...jobActions(state, isUsable, changeCaps, bring),
  bring,
  askForModels,
  showCut: () => void showCut(state, bring)
}
const marks = markMenus(state, actions.showCut)
const varying = new Varying(graph)
const vary = varyMenus(varying, showPanel)
const lists = new TargetLists(state)

/** @returns {string | null} The target in the page's settings. */
function preset() {
  const setting = app.extensionManager.setting.get(TARGET_SETTING)
  return typeof setting === 'string' && setting.trim() ? setting.trim() : null
}

/** @returns {string | null} `use`, `off`, or null: what the server's configuration says. */
function cacheMode() {
  const setting = app.extensionManager.setting.get(CACHE_SETTING)
  return typeof setting === 'string' && setting !== CONFIGURED ? setting : null
}

function openPanel() {
  const wasOpen = panelIsOpen()
  app.extensionManager.command.execute(`Workspace.ToggleSidebarTab.${PANEL}`)
  if (wasOpen) return
  // App mode has no sidebar in a small window.
  setTimeout(() => panelIsOpen() || openDialog(t('remote'), makePanel(state, cost, actions, varying, brings)), SIDEBAR_MS)
}

function panelIsOpen() {
  // App mode draws a sidebar of its own, and hides the other.
  return [...document.querySelectorAll('.comfy-remote-panel')].some((one) => one.checkVisibility())
}

/** Until it is done, the switch waits: it would go on with the target that was chosen before. */
let choosing = Promise.resolve()

async function toggle() {
  await choosing
  if (state.target !== null) return switchTo(null)
  // What was added elsewhere, in a terminal or another tab, counts.
  if (state.targets.length === 0 || state.empty) await state.refresh().catch(() => null)
  const target = state.empty ? null : state.usual()
  if (target !== null) return switchTo(target)
  showPanel()
}

/** Open the panel, unless it is open. */
function showPanel() {
  if (!panelIsOpen()) openPanel()
}

/** Open the panel, at the form for caps on spending. */
function changeCaps() {
  showPanel()
  const opened = setInterval(() => {
    const caps = [...document.querySelectorAll('.comfy-remote-spending')].find((one) => one.checkVisibility())
    if (!(caps instanceof HTMLDetailsElement)) return
    clearInterval(opened)
    caps.open = true
    caps.scrollIntoView({ block: 'nearest' })
    caps.querySelector('summary')?.focus()
  }, PANEL_MS)
  setTimeout(() => clearInterval(opened), SIDEBAR_MS * 2)
}

/** @param {string | null} target */
function isSetUpHere(target) {
  return Boolean(state.find(target)?.form)
}

/**
 * A target was added or changed in the panel. A new one is used from now on.
 *
 * @param {string} name
 * @param {string | null} before  What it was called; null: it is new.
 */
async function added(name, before) {
  const used = before === null || before === state.usual()
  const on = before === null || (used && state.target !== null)
  await state.refresh().catch(() => null)
  if (used) await app.extensionManager.setting.set(TARGET_SETTING, name)
  if (on) await switchTo(name)
}

/**
 * A target was removed in the panel: what used it uses it no more.
 *
 * @param {string} name
 */
async function removed(name) {
  if (preset() === name) await app.extensionManager.setting.set(TARGET_SETTING, '')
  if (state.target === name) await switchTo(null)
  await state.refresh().catch(() => null)
}

/** @param {string} typed */
function choose(typed) {
  choosing = use(typed).catch((error) => showError(t('remote'), error))
}

/** @param {string} typed */
async function use(typed) {
  if (!(await isUsable(typed))) return
  // As the server spells it: the URL that RunPod's console shows is runpod:ID.
  const { target } = await getAddress(typed).catch(() => ({ target: typed }))
  await app.extensionManager.setting.set(TARGET_SETTING, target)
  if (state.target !== null) await switchTo(target)
  else await state.agree().catch((error) => showError(t('remote'), error))
}

/**
 * Ask the user whether a target's address may be used, if nobody has confirmed it yet.
 *
 * @param {string} target
 */
async function isUsable(target) {
  try {
    return await mayUse(target)
  } catch (error) {
    showError(t('cannotUse', { target }), error)
    return false
  }
}

/** @param {string | null} target */
async function switchTo(target) {
  if (target !== null && !(await isUsable(target))) return
  try {
    await state.switchTo(target)
  } catch (error) {
    showError(stillOn(target), error)
    // The panel has what helps.
    if (isSetUpHere(target)) showPanel()
    return
  }
  offer.keepFor(target)
  await lists.update()
  offerIfLacking()
}

/** What the page itself finds missing while Remote is on, neither this ComfyUI nor the target has. */
function offerIfLacking() {
  if (state.target !== null && lists.known && graphLacks()) offer.show({ target: state.target })
}

/** Bring what the open workflow lacks to the switch's target. */
function bringOpen() {
  const target = state.usual()
  if (target === null) showPanel()
  else void bring({ target })
}

/**
 * @param {string | null} wanted  What the switch could not be set to; null: off.
 * @returns {string} What it is set to instead.
 */
function stillOn(wanted) {
  if (state.target === null) return t('notOn', { target: wanted ?? '' })
  return wanted === null ? t('staysSwitchedOn') : t('staysOn', { target: state.target })
}

/** @param {boolean} wanted  Of the next run. */
async function askForModels(wanted) {
  try {
    await state.askForModels(wanted)
  } catch (error) {
    showError(t('remote'), error)
  }
}

/** @param {any} node */
function bringItems(node) {
  const { target } = state
  if (target === null || !isLacking(node)) return []
  return [{ content: t('bringIt', { target }), callback: () => void bring({ target }) }]
}

async function agree() {
  try {
    await state.agree()
  } catch (error) {
    const known = state.target === null || error instanceof ServerPartMissing
    showError(t(known ? 'unusableHere' : 'stateUnknown'), error)
  }
}

app.registerExtension({
  name: 'comfy-remote',
  commands: [
    {
      id: 'ComfyRemote.Toggle',
      label: t('commandToggle'),
      icon: 'pi pi-cloud',
      function: toggle
    },
    ...marks.commands,
    ...vary.commands,
    ...packedMenus().commands,
    { id: BRING, label: t('commandBring'), icon: 'pi pi-upload', function: bringOpen }
  ],
  // On a Mac, Alt+R types ®.
  keybindings: ['r', '®'].map((key) => ({
    combo: { key, alt: true },
    commandId: 'ComfyRemote.Toggle'
  })),
  menuCommands: [
    {
      path: ['Extensions', t('remote')],
      commands: ['ComfyRemote.Toggle', `Workspace.ToggleSidebarTab.${PANEL}`, ...marks.menu, vary.commands[0].id, BRING, OPEN_PACKED]
    }
  ],
  getSelectionToolboxCommands: (item) => [
    ...marks.getSelectionToolboxCommands(item),
    ...vary.getSelectionToolboxCommands(item),
    ...(state.target !== null && isLacking(item) ? [BRING] : [])
  ],
  getNodeMenuItems: (node) => [...bringItems(node), ...marks.getNodeMenuItems(node), ...vary.getNodeMenuItems(node)],
  getCanvasMenuItems: marks.getCanvasMenuItems,
  settings: [
    {
      id: /** @type {any} */ (TARGET_SETTING),
      category: [t('remote'), t('target'), 'Target'],
      name: t('settingTarget'),
      tooltip: t('settingTargetTooltip'),
      type: 'text',
      defaultValue: ''
    },
    {
      id: /** @type {any} */ (CACHE_SETTING),
      category: [t('remote'), t('target'), 'Cache'],
      name: t('settingCache'),
      tooltip: t('settingCacheTooltip'),
      type: 'combo',
      options: [
        { value: CONFIGURED, text: t('cacheConfigured') },
        { value: 'use', text: t('cacheUse') },
        { value: 'off', text: t('cacheOff') }
      ],
      defaultValue: CONFIGURED,
      onChange: (/** @type {unknown} */ _value, /** @type {unknown} */ before) => {
        if (before !== undefined) state.sendSettings().catch((error) => showError(t('remote'), error))
      }
    },
    {
      id: /** @type {any} */ ('ComfyRemote.Panel'),
      category: [t('remote'), t('settingStatus'), 'Panel'],
      name: t('settingPanel'),
      type: () => makePanel(state, cost, actions, varying, brings),
      defaultValue: null
    }
  ],
  aboutPageBadges: [
    { label: 'Comfy Remote', url: 'https://pypi.org/project/comfy-remote/', icon: 'pi pi-cloud' }
  ],
  addCustomNodeDefs: (definitions) => lists.addOnLoad(definitions),
  afterConfigureGraph() {
    graph.changed()
    offer.hide()
    if (!state.updating) offerIfLacking()
  },
  nodeCreated(node) {
    addBadge(node, () => state.usual())
    addVaryBadge(node, varying)
    lists.label(node)
    if (node.comfyClass === REMOTE_API) makeItGrow(node)
  },
  refreshComboInNodes: (/** @type {Definitions} */ definitions) => lists.refresh(definitions),
  setup() {
    addStyles()
    addToTopBar(state, cost, { toggle, openPanel })
    app.extensionManager.registerSidebarTab({
      id: PANEL,
      title: t('remote'),
      icon: 'pi pi-cloud',
      tooltip: t('sidebarTooltip'),
      type: 'custom',
      render: (container) => {
        container.replaceChildren(makePanel(state, cost, actions, varying, brings))
      }
    })
    // The declared types know the page's own events only.
    const events = /** @type {EventTarget} */ (api)
    events.addEventListener('comfy_remote.job', (event) => {
      const { detail } = /** @type {CustomEvent} */ (event)
      state.update(detail)
      nameJob(detail)
      for (const problem of detail.problems ?? []) showProblem(problem)
      const { target } = detail
      for (const warning of detail.warnings ?? []) showWarning(t('jobWarning', { target }), warning)
      // The page's own words do not say where, and go when it follows another job.
      if (detail.state === 'failed') showError(t('jobFailed', { target }), detail.message)
      if (detail.lacks) offer.show({ target: detail.lacks, job: detail.prompt_id })
    })
    events.addEventListener('comfy_remote.refused', (event) => {
      const { target, message, cap, lacks, nodes } = /** @type {CustomEvent} */ (event).detail
      if (cap) void askToRunOver(cap, changeCaps)
      else showError(t('refused', { target }), message)
      if (lacks) offer.show({ target, nodes })
    })
    events.addEventListener('comfy_remote.confirm', (event) => {
      void askForNodes(/** @type {CustomEvent} */ (event).detail)
    })
    events.addEventListener('comfy_remote.bring', () => void brings.refresh())
    brings.addEventListener('ended', (event) => {
      const { target, state: how, steps } = /** @type {CustomEvent} */ (event).detail
      const failed = steps.filter((/** @type {any} */ one) => one.state === 'failed').length
      if (how === 'ended') showNote(t('remote'), t('bringEnded', { target, count: steps.length }))
      else if (how === 'failed') showError(t('remote'), t('bringFailed', { target, count: steps.length, failed }))
      offer.hide()
      if (target === state.target) void lists.update()
    })
    // It skips the list of one run, a batch as well.
    events.addEventListener('promptQueued', () => void askForModels(true))
    api.addEventListener('reconnected', agree)
    api.addEventListener('reconnected', () => void brings.refresh())
    setInterval(() => {
      const waits = state.condition === 'asleep' || state.condition === 'waking'
      if (waits && !document.hidden) void state.askTarget()
    }, WAKING_SECONDS * 1000)
    listenToSheets()
    void agree()
    void lists.updateIfMissing().then(offerIfLacking)
    void brings.refresh()
  }
})
