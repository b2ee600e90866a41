// @ts-check
/** HTML elements in one expression, and dialogs made of them. */

import { t } from './words.js'

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | boolean | EventListener | null>} attributes  A function
 *   listens (`onclick`); `true` and `false` set and leave out; null leaves out.
 * @param {...(Node | string | null)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') made.addEventListener(name.replace(/^on/, ''), value)
    else if (value === true) made.setAttribute(name, '')
    else if (value !== false && value !== null) made.setAttribute(name, value)
  }
  made.append(...children.filter((child) => child !== null))
  return made
}

/**
 * @param {Parameters<typeof element>[1]} attributes
 * @param {...(Node | string)} children
 */
export function button(attributes, ...children) {
  return element(
    'button',
    { type: 'button', class: 'comfy-remote-button', ...attributes },
    ...children
  )
}

/**
 * @param {string} name  Of a PrimeIcon, which every version of the page has.
 * @returns {HTMLElement}
 */
export function icon(name) {
  return element('i', { class: `pi pi-${name}`, 'aria-hidden': 'true' })
}

/** Add our style sheet to the page. */
export function addStyles() {
  const href = new URL('./comfy_remote.css', import.meta.url).href
  document.head.append(element('link', { rel: 'stylesheet', href }))
}

/**
 * Show the browser's own dialog, which keeps the focus and closes on Escape. It is removed when
 * it is closed.
 *
 * @param {string} title
 * @param {...(Node | string)} children
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, ...children) {
  const close = () => dialog.close()
  const dialog = element(
    'dialog',
    { class: 'comfy-remote-modal', 'aria-label': title },
    element(
      'header',
      {},
      element('h2', {}, title),
      button({ class: 'comfy-remote-icon', 'aria-label': t('close'), onclick: close }, '✕')
    ),
    ...children
  )
  dialog.addEventListener('close', () => dialog.remove())
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) close() // beside it
  })
  // The graph must not take what is typed here for its own shortcuts.
  dialog.addEventListener('keydown', (event) => event.stopPropagation())
  document.body.append(dialog)
  dialog.showModal()
  return dialog
}
