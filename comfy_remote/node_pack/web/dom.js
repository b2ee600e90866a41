// @ts-check
/** HTML elements in one expression. */

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
