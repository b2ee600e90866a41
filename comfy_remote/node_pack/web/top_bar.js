// @ts-check
/** The switch in ComfyUI's top bar. */

import { app } from '../../scripts/app.js'
import { conditionWords } from './condition.js'
import { costSentences, shortCost } from './cost_words.js'
import { button, element, icon } from './dom.js'
import { keptInSight } from './small_switch.js'
import { t } from './words.js'

/** @import { Cost } from './cost.js' */
/** @import { RemoteState } from './remote_state.js' */

/** By the state of the target. */
const LOOKS = {
  ready: 'cloud',
  asleep: 'moon',
  waking: 'hourglass',
  unusable: 'exclamation-triangle'
}

/**
 * Put the switch where packs put their buttons (`app.menu.settingsGroup`): the one place in
 * the top bar, in every version of the page, that takes an element which can change.
 *
 * @param {RemoteState} state
 * @param {Cost} cost
 * @param {{toggle: () => void, openPanel: () => void}} actions
 */
export function addToTopBar(state, cost, actions) {
  const label = element('span', { class: 'comfy-remote-label' })
  const count = element('span', { class: 'comfy-remote-count', hidden: true })
  const symbol = icon('cloud')
  const toggle = button(
    { role: 'switch', class: 'comfy-remote-toggle', onclick: actions.toggle },
    symbol,
    label,
    count
  )
  const price = button({ class: 'comfy-remote-cost', hidden: true, onclick: actions.openPanel })
  const settings = button(
    {
      class: 'comfy-remote-more',
      'aria-label': t('openPanel'),
      title: t('openPanel'),
      onclick: actions.openPanel
    },
    icon('chevron-down')
  )
  const root = element('div', { class: 'comfy-remote-switch' }, toggle, price, settings)

  const show = () => {
    const on = state.target !== null
    const { condition } = state
    const looks = on && condition ? LOOKS[condition] : LOOKS.ready
    root.classList.toggle('comfy-remote-on', on)
    root.classList.toggle('comfy-remote-trouble', condition === 'unusable')
    root.classList.toggle('comfy-remote-asleep', condition === 'asleep')
    root.classList.toggle('comfy-remote-waking', condition === 'waking')
    toggle.setAttribute('aria-checked', String(on))
    toggle.disabled = state.switching
    toggle.setAttribute('aria-busy', String(state.updating))
    symbol.className = state.updating ? 'pi pi-spinner pi-spin' : `pi pi-${looks}`
    const target = state.target ?? ''
    label.textContent = t(state.switching ? 'switching' : on ? 'switchOn' : 'switchOff', { target })
    const quiet = t(on ? 'switchOnTooltip' : 'switchOffTooltip', { target })
    const words = on ? conditionWords(state) : null
    const lines = words === null ? [quiet] : [t('withDetail', { text: target, detail: words }), quiet]
    if (on && cost.estimate) lines.push(costSentences(cost.estimate, cost.runs))
    toggle.title = lines.join('\n')
    count.hidden = state.jobs.length === 0
    count.textContent = count.hidden ? '' : String(state.jobs.length)
    count.title = t('jobCount', { count: state.jobs.length })
  }
  const showCost = () => {
    const { estimate, runs } = cost
    price.hidden = estimate === null
    if (estimate !== null) {
      price.textContent = shortCost(estimate, runs)
      price.title = costSentences(estimate, runs)
    }
    show()
  }
  state.addEventListener('changed', show)
  cost.addEventListener('changed', showCost)
  showCost()
  // The group takes any element; its declared type knows only the page's own buttons.
  app.menu.settingsGroup.append(/** @type {any} */ (keptInSight(root)))
}
