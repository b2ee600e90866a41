// @ts-check
/** Asks whether an address may be used that nobody has confirmed yet. */

import { button, element, openDialog } from './dom.js'
import { showError, showNote } from './notices.js'
import { RemoteError, getAddress, postAddress } from './remote_api.js'
import { t, tWith } from './words.js'

/** @import { AskingNode, Refused } from './remote_api.js' */

/**
 * Ask about a target that somebody chooses in this page, unless its address may be used already.
 *
 * @param {string} target  A name or an address.
 * @returns {Promise<boolean>} Whether it may be used.
 * @throws {import('./remote_api.js').RemoteError}
 */
export async function mayUse(target) {
  const { confirmed, address, command } = await getAddress(target)
  if (confirmed || address === null) return true
  if (!(await ask(address, [], command))) return false
  await postAddress(target)
  return true
}

/**
 * Ask about what stopped a workflow that was queued.
 *
 * @param {Refused} refused
 */
export async function askForNodes(refused) {
  if (await confirmAll(refused)) {
    showNote(t('confirmed'), t('confirmedHelp', { address: refused.address }))
  }
}

/**
 * Ask if that is what an error is about.
 *
 * @param {unknown} error
 * @returns {Promise<boolean>} Whether all of it may be used now.
 */
export async function askIfUnconfirmed(error) {
  return error instanceof RemoteError && error.confirm ? confirmAll(error.confirm) : false
}

/**
 * @param {Refused} refused
 * @returns {Promise<boolean>}
 */
async function confirmAll({ address, nodes }) {
  const addresses = new Set([address, ...nodes.map((node) => node.address)])
  for (const one of addresses) {
    if (asking.has(one)) return false
    asking.add(one)
    try {
      const { confirmed, command } = await getAddress(one)
      if (confirmed) continue
      if (!(await ask(one, nodes.filter((node) => node.address === one), command))) return false
      await postAddress(one)
    } catch (error) {
      showError(t('notConfirmed'), error)
      return false
    } finally {
      asking.delete(one)
    }
  }
  return true
}

/** Addresses with an open question: a batch is refused many times. @type {Set<string>} */
const asking = new Set()

/**
 * @param {string} address
 * @param {AskingNode[]} nodes  That name it; empty where the person did.
 * @param {string} command  What to type for comfy-remote.
 * @returns {Promise<boolean>}
 */
function ask(address, nodes, command) {
  const names = nodes.map(({ title, node_id }) => t('nodeWithId', { title, id: node_id }))
  const byNodes = names.length > 0
  return new Promise((resolve) => {
    const form = element(
      'form',
      { method: 'dialog' },
      element('p', {}, byNodes ? t('askForNodes', { nodes: names.join(', ') }) : t('askForSwitch')),
      element('p', { class: 'comfy-remote-asked' }, address),
      element(
        'p',
        {},
        `${t('askUnconfirmed')} ${byNodes ? t('askOthersWorkflow') : ''}`.trim()
      ),
      element(
        'div',
        { class: 'comfy-remote-answers' },
        button({ type: 'submit', value: 'no', autofocus: true }, t('cancel')),
        button({ type: 'submit', value: 'yes' }, t('askAnswer'))
      ),
      element(
        'p',
        { class: 'comfy-remote-foot' },
        ...tWith('askOnce', {
          list: element('code', {}, `${command} trust --list`),
          remove: element('code', {}, '--remove')
        })
      )
    )
    const dialog = openDialog(t('askTitle'), form)
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'))
  })
}
