// @ts-check
/** Opens a packed workflow (`comfy-remote pack`): a command that asks for the file. */

import { app } from '../../scripts/app.js'
import { element } from './dom.js'
import { showError, showNote, showWarning } from './notices.js'
import { postPacked } from './remote_api.js'
import { t } from './words.js'

export const OPEN_PACKED = 'ComfyRemote.OpenPacked'

/** The members of our extension that concern packed workflows. */
export function packedMenus() {
  return {
    commands: [
      { id: OPEN_PACKED, label: t('commandOpenPacked'), icon: 'pi pi-box', function: choose }
    ]
  }
}

function choose() {
  const input = element('input', { type: 'file', accept: '.zip', name: 'comfy-remote-packed' })
  input.addEventListener('change', () => {
    const file = input.files?.[0]
    if (file !== undefined) open(file).catch((error) => showError(t('commandOpenPacked'), error))
  })
  input.click()
}

/** @param {File} file */
async function open(file) {
  const name = file.name.replace(/\.zip$/i, '')
  const opened = await postPacked(file)
  // So that the nodes that load its files have them among their choices.
  await app.refreshComboInNodes()
  if (opened.workflow !== null) await app.loadGraphData(opened.workflow, true, true, name)
  else await app.loadApiJson(opened.prompt, name)
  if (opened.left_out.length > 0) {
    showWarning(t('packedOpened', { name }), t('packedLeftOut', { names: opened.left_out.join('; ') }))
  } else {
    showNote(t('commandOpenPacked'), t('packedOpened', { name }))
  }
}
