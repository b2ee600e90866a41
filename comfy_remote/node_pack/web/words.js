// @ts-check
/** The words that the page shows, in the language that ComfyUI is set to. */

import { app } from '../../scripts/app.js'
import { advice } from './languages/advice.js'
import { en } from './languages/en.js'
import { ja } from './languages/ja.js'
import { zh } from './languages/zh.js'

/** @typedef {Record<keyof typeof en, string>} Words */

/** @type {Record<string, Words>} */
const LANGUAGES = { en, ja, zh }

/**
 * @param {keyof Words} key
 * @param {Record<string, string | number>} values  For the placeholders.
 * @returns {string}
 */
export function t(key, values = {}) {
  return filled(words()[key], values)
}

/**
 * What to do about an error, as the page words it by its code.
 *
 * @param {import('./remote_api.js').Hint} hint
 * @returns {string | null} null where the server's own words are shown.
 */
export function adviceFor({ code, facts, command }) {
  const text = advice[language()]?.[code]
  return text ? filled(text.replaceAll('comfy-remote ', () => `${command ?? 'comfy-remote'} `), facts) : null
}

/**
 * The same text with elements in it.
 *
 * @param {keyof Words} key
 * @param {Record<string, Node>} elements  For the placeholders.
 * @returns {(Node | string)[]}
 */
export function tWith(key, elements) {
  // Every second piece is what the parentheses match: the name of a placeholder.
  return words()[key]
    .split(/\{(\w+)\}/)
    .map((piece, number) => (number % 2 === 1 ? elements[piece] : piece))
}

/**
 * @param {string} text
 * @param {Record<string, string | number>} values
 */
function filled(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]))
}

/** A language that we do not have, such as zh-TW, is shown in English, as the nodes are. */
function words() {
  return LANGUAGES[language()] ?? en
}

function language() {
  return String(app.extensionManager.setting.get('Comfy.Locale'))
}
