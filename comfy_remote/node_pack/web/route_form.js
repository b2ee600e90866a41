// @ts-check
/** The fields of a route: which targets it chooses among, in which order, and what decides. */

import { button, element, icon } from './dom.js'
import { t } from './words.js'

/** @import { Form } from './remote_api.js' */

const PREFIX = 'route:'
/** @type {Record<string, keyof import('./words.js').Words>} */
const PREFERENCES = { order: 'preferOrder', price: 'preferPrice', soonest: 'preferSoonest' }

/**
 * @param {Form | null} before
 * @param {string[]} names  Of the targets that there are.
 * @returns {{root: HTMLElement, address: () => string, prefer: () => string}}
 */
export function routeFields(before, names) {
  const members = before ? before.address.slice(PREFIX.length).split(',') : []
  /** @type {{name: string, chosen: boolean}[]} */
  const rows = [
    ...members.map((name) => ({ name, chosen: true })),
    ...names.filter((name) => !members.includes(name)).map((name) => ({ name, chosen: false }))
  ]
  const list = element('ol', { class: 'comfy-remote-members', 'aria-label': t('routeMembers') })
  const prefer = element(
    'select',
    {},
    ...Object.entries(PREFERENCES).map(([value, label]) => element('option', { value }, t(label)))
  )
  prefer.value = before?.prefer ?? 'order'

  /** @param {number} place */
  const moveUp = (place) => {
    rows.splice(place - 1, 0, ...rows.splice(place, 1))
    show()
    const moved = /** @type {HTMLElement | undefined} */ (list.querySelectorAll('button')[Math.max(0, place - 1)])
    moved?.focus()
  }

  const show = () => {
    list.replaceChildren(
      ...rows.map((row, place) => {
        const tick = element('input', {
          type: 'checkbox',
          checked: row.chosen,
          onchange: () => {
            row.chosen = tick.checked
          }
        })
        return element(
          'li',
          {},
          element('label', { class: 'comfy-remote-choice' }, tick, element('span', { class: 'comfy-remote-name' }, row.name)),
          button(
            {
              class: 'comfy-remote-icon',
              disabled: place === 0,
              'aria-label': t('moveUp', { target: row.name }),
              title: t('moveUp', { target: row.name }),
              onclick: () => moveUp(place)
            },
            icon('arrow-up')
          )
        )
      })
    )
  }
  show()
  return {
    root: element(
      'div',
      {},
      element('p', {}, t('routeMembers')),
      list,
      element('label', { class: 'comfy-remote-caption' }, t('routePrefer'), prefer)
    ),
    address: () => PREFIX + rows.filter(({ chosen }) => chosen).map(({ name }) => name).join(','),
    prefer: () => prefer.value
  }
}
