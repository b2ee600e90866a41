// @ts-check
/** The switch in ComfyUI's top bar. */

import { app } from '../../scripts/app.js'
import { button, element, icon } from './dom.js'
import { t } from './words.js'

/** @import { RemoteState } from './remote_state.js' */

/**
 * Put the switch where packs put their buttons (`app.menu.settingsGroup`): the one place in
 * the top bar, in every version of the page, that takes an element which can change.
 *
 * @param {RemoteState} state
 * @param {{toggle: () => void, openPanel: () => void}} actions
 */
export function addToTopBar(state, actions) {
  const label = element('span', { class: 'comfy-remote-label' })
  const count = element('span', { class: 'comfy-remote-count', hidden: true })
  const symbol = icon('cloud')
  const toggle = button(
    { role: 'switch', class: 'comfy-remote-toggle', onclick: actions.toggle },
    symbol,
    label,
    count
  )
  const settings = button(
    {
      class: 'comfy-remote-more',
      'aria-label': t('openPanel'),
      title: t('openPanel'),
      onclick: actions.openPanel
    },
    icon('chevron-down')
  )
  const root = element('div', { class: 'comfy-remote-switch' }, toggle, settings)

  const show = () => {
    const on = state.target !== null
    const trouble = on ? state.trouble : null
    root.classList.toggle('comfy-remote-on', on)
    root.classList.toggle('comfy-remote-trouble', trouble !== null)
    toggle.setAttribute('aria-checked', String(on))
    toggle.disabled = state.switching
    toggle.setAttribute('aria-busy', String(state.updating))
    const quiet = trouble === null ? 'pi pi-cloud' : 'pi pi-exclamation-triangle'
    symbol.className = state.updating ? 'pi pi-spinner pi-spin' : quiet
    const target = state.target ?? ''
    label.textContent = t(state.switching ? 'switching' : on ? 'switchOn' : 'switchOff', { target })
    toggle.title =
      trouble === null
        ? t(on ? 'switchOnTooltip' : 'switchOffTooltip', { target })
        : t('withDetail', { text: target, detail: trouble })
    count.hidden = state.jobs.length === 0
    count.textContent = count.hidden ? '' : String(state.jobs.length)
    count.title = t('jobCount', { count: state.jobs.length })
  }
  state.addEventListener('changed', show)
  show()
  // The group takes any element; its declared type knows only the page's own buttons.
  app.menu.settingsGroup.append(/** @type {any} */ (root))
}
