// @ts-check
/** The browser's own dialog, which keeps the focus and closes on Escape. */

import { element } from './dom.js'

/**
 * Show a dialog until it is closed; then it is gone.
 *
 * @param {string} title
 * @param {...(Node | string)} children
 * @returns {HTMLDialogElement}
 */
export function openModal(title, ...children) {
  const close = () => modal.close()
  const modal = element(
    'dialog',
    { class: 'comfy-remote-modal', 'aria-label': title },
    element(
      'header',
      {},
      element('h2', {}, title),
      element(
        'button',
        { type: 'button', class: 'comfy-remote-icon', 'aria-label': 'Close', onclick: close },
        '✕'
      )
    ),
    ...children
  )
  modal.addEventListener('close', () => modal.remove())
  modal.addEventListener('click', (event) => {
    if (event.target === modal) close() // beside it
  })
  // The graph must not take what is typed here for its own shortcuts.
  modal.addEventListener('keydown', (event) => event.stopPropagation())
  document.body.append(modal)
  modal.showModal()
  return modal
}
