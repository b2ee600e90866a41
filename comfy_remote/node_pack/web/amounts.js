// @ts-check
/** Money, time and sizes as people read them. */

import { t } from './words.js'

/**
 * @param {number} amount  US dollars.
 * @returns {string}  `$1,234.56`, `$0.31`, `< $0.01`, `$0`
 */
export function dollars(amount) {
  if (amount <= 0) return '$0'
  if (amount < 0.01) return '< $0.01'
  return `$${amount.toLocaleString('en-US', { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`
}

/**
 * @param {number} amount  US dollars, not known exactly.
 * @returns {string}  `about $0.31`, `< $0.01`
 */
export function aboutDollars(amount) {
  const text = dollars(amount)
  return amount > 0 && amount < 0.01 ? text : t('aboutCost', { cost: text })
}

/**
 * @param {number} seconds  Not known exactly.
 * @returns {string}  `0.8 s`, `42 s`, `26 min`, `3.5 h`
 */
export function roundTime(seconds) {
  if (seconds < 10) return t('seconds', { count: Math.max(0.1, seconds).toFixed(1) })
  if (seconds < 120) return t('seconds', { count: Math.round(seconds) })
  if (seconds < 7200) return t('minutes', { count: Math.round(seconds / 60) })
  return t('hours', { count: (seconds / 3600).toFixed(1) })
}

/**
 * @param {number} seconds
 * @returns {string}  `42 s`, `26 min`, `2 h`, `3 d`
 */
export function ageOf(seconds) {
  if (seconds < 90) return t('seconds', { count: Math.round(seconds) })
  if (seconds < 5400) return t('minutes', { count: Math.round(seconds / 60) })
  if (seconds < 129600) return t('hours', { count: Math.round(seconds / 3600) })
  return t('days', { count: Math.round(seconds / 86400) })
}

/**
 * @param {number | null} bytes
 * @returns {string}  `210 MB`
 */
export function sizeOf(bytes) {
  if (bytes === null) return t('unknown')
  const units = ['B', 'kB', 'MB', 'GB']
  let size = bytes
  let unit = 0
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000
    unit += 1
  }
  return `${size >= 100 || unit === 0 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`
}
