// @ts-check
/** Keeps the switch in sight where the page hides its top bar: App mode, and small windows. */

import { element } from './dom.js'

// The page builds its top bar after its extensions have started.
const START_MS = 5000
const MOSTLY = 0.5

/**
 * @param {HTMLElement} root  The switch.
 * @returns {HTMLElement} It, for the top bar. While that is out of sight, the switch floats over the page.
 */
export function keptInSight(root) {
  const home = element('div', { class: 'comfy-remote-home' }, root)
  const floating = element('div', { class: 'comfy-remote-floating' })
  let width = 0
  let seen = false
  let started = false

  const move = () => {
    const away = root.parentElement === floating
    if (seen !== away || !(started || seen)) return
    // As wide as with the switch in it: else it would be in sight without, and out of it with.
    home.style.width = seen || !width ? '' : `${width}px`
    if (seen) floating.remove()
    else document.body.append(floating)
    ;(seen ? home : floating).append(root)
  }
  const observer = new IntersectionObserver(
    (entries) => {
      const last = entries[entries.length - 1]
      seen = last.isIntersecting && last.intersectionRatio >= MOSTLY
      if (seen && root.parentElement === home) width = last.boundingClientRect.width
      started ||= seen
      move()
    },
    { threshold: [0, MOSTLY, 1] }
  )
  observer.observe(home)
  setTimeout(() => {
    started = true
    move()
  }, START_MS)
  return home
}
