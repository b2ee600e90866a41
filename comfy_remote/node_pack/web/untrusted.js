// @ts-check
/** What a folder's files name and nobody has trusted: said, shown on request, and asked about. */

import { button, element, openDialog } from './dom.js'
import { showError } from './notices.js'
import { postTrust } from './remote_api.js'
import { t } from './words.js'

/** @import { RemoteState } from './remote_state.js' */

/**
 * @param {RemoteState} state
 * @returns {{root: HTMLElement, show: () => void}}
 */
export function makeUntrusted(state) {
  const root = element('div', {})
  let shown = ''
  const show = () => {
    const files = state.setup?.refused ? [] : (state.setup?.untrusted ?? [])
    const now = JSON.stringify([state.unused, files])
    if (now === shown) return
    shown = now
    root.replaceChildren(
      ...state.unused.map((text) => element('p', { class: 'comfy-remote-advice' }, text)),
      ...files.map((file) =>
        button({ onclick: () => review(state, file) }, t('reviewFile', { file: name(file.path) }))
      )
    )
  }
  return { root, show }
}

/**
 * @param {RemoteState} state
 * @param {{path: string, named: string[]}} file
 */
function review(state, file) {
  const trust = async () => {
    try {
      await postTrust(file)
      await state.refresh()
    } catch (error) {
      showError(t('notTrusted'), error)
    }
  }
  const form = element(
    'form',
    { method: 'dialog' },
    element('p', {}, t('fileNames', { file: file.path })),
    element('ul', {}, ...file.named.map((line) => element('li', {}, element('code', {}, line)))),
    element('p', {}, t('askTrust')),
    element(
      'div',
      { class: 'comfy-remote-answers' },
      button({ type: 'submit', value: 'no', autofocus: true }, t('cancel')),
      button({ type: 'submit', value: 'yes' }, t('trustThis'))
    )
  )
  const dialog = openDialog(t('trustTitle'), form)
  dialog.addEventListener('close', () => {
    if (dialog.returnValue === 'yes') void trust()
  })
}

/** @param {string} path */
function name(path) {
  return path.split(/[\\/]/).pop() ?? path
}
