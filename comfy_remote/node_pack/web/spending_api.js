// @ts-check
/** The server's routes for money: what is spent, the caps, and a run that may go over them. */

import { api } from '../../scripts/api.js'
import { ask } from './remote_api.js'

/** @typedef {'job' | 'day' | 'month' | 'batch'} Span */

/**
 * @typedef {object} Today  US dollars, of all targets together.
 * @property {number} spent  Reserved amounts are part of it.
 * @property {number | null} cap
 */

/**
 * @typedef {object} OwnCaps  What the owner's file says; null: no such cap.
 * @property {string | null} target  null: all targets together.
 * @property {number | null} job
 * @property {number | null} day
 * @property {number | null} month
 */

/**
 * @typedef {object} KnownCap
 * @property {Span} span
 * @property {string | null} target
 * @property {number} dollars
 * @property {number | null} spent
 * @property {string} where
 */

/** @typedef {Today & {file: string, own: OwnCaps[], caps: KnownCap[]}} Spending */

/**
 * @typedef {object} OverCap  Why a run was not sent.
 * @property {string} target
 * @property {number} cap
 * @property {Span} span
 * @property {number} [spent]
 * @property {number} [reserved]  Missing where the price of an hour is not known.
 */

/** @returns {Promise<Spending>} */
export function getSpending() {
  return ask('/remote/spending')
}

/**
 * @param {OwnCaps} caps
 * @returns {Promise<Spending>}
 */
export function putCaps(caps) {
  return ask('/remote/spending/caps', caps, 'PUT')
}

/** Let this tab's next run go over every cap, once its user has said so. */
export function postOverCap() {
  return ask('/remote/spending/over', { client_id: api.clientId })
}
