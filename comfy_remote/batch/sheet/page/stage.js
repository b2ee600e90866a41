// @ts-check
/** One output, large; or two, side by side or under a slider. They zoom and pan in step. */

import { baseName, beside, small, whole } from './files.js'
import { element, size } from './words.js'

/** @import { Output } from './batch.js' */

/** @typedef {'one' | 'side' | 'slider'} Mode */

const LARGEST = 40

export class Stage {
  #panes = element('div', 'panes')
  #split = /** @type {HTMLInputElement} */ (element('input', 'split'))
  #handle = element('div', 'handle')
  /** @type {Map<number, { x: number, y: number }>} */
  #pointers = new Map()
  #x = 0
  #y = 0
  #scale = 1

  /** @param {HTMLElement} box */
  constructor(box) {
    this.box = box
    this.#split.type = 'range'
    this.#split.min = '0'
    this.#split.max = '100'
    this.#split.step = '0.5'
    this.#split.setAttribute('aria-label', 'How much of the left picture is seen')
    this.#split.addEventListener('input', () => this.#place())
    this.#handle.ariaHidden = 'true'
    box.append(this.#panes, this.#handle, this.#split)
    this.#panes.addEventListener('wheel', (event) => this.#wheel(event), { passive: false })
    for (const name of /** @type {const} */ (['pointerdown', 'pointermove', 'pointerup', 'pointercancel'])) {
      this.#panes.addEventListener(name, (event) => this.#pointer(event))
      this.#handle.addEventListener(name, (event) => this.#drag(event))
    }
    this.#panes.addEventListener('dblclick', (event) => {
      if (/** @type {Element} */ (event.target).closest('video, audio, pre, a')) return
      if (this.#scale > 1) this.fit()
      else this.#zoom(this.#actual(), event.clientX, event.clientY)
    })
    new ResizeObserver(() => this.#place()).observe(box)
  }

  /**
   * @param {(Output | string)[]} outputs  One, or two; a text instead of one that there is not.
   * @param {Mode} mode
   */
  show(outputs, mode) {
    this.box.dataset.mode = mode
    this.#panes.replaceChildren(
      ...outputs.map((output) => {
        const pane = element('div', 'pane')
        const content = element('div', 'content')
        content.append(typeof output === 'string' ? element('div', 'about', element('bdi', '', output)) : look(output))
        pane.append(content)
        return pane
      })
    )
    this.#split.hidden = this.#handle.hidden = mode !== 'slider'
    if (mode === 'slider') this.#split.value = '50'
    this.#place()
  }

  /** Stop what plays. */
  clear() {
    this.#panes.replaceChildren()
    this.fit()
  }

  fit() {
    this.#scale = 1
    this.#x = this.#y = 0
    this.#place()
  }

  /** A pixel of the picture for one of the screen. */
  actual() {
    this.#zoom(this.#actual())
  }

  /** @param {number} factor */
  zoomBy(factor) {
    this.#zoom(this.#scale * factor)
  }

  // ---------------------------------------------------------------------------------------------

  get #picture() {
    return this.#panes.querySelector('img')
  }

  /** How much a fitting picture is made smaller. */
  get #fitted() {
    const picture = this.#picture
    const pane = this.#panes.firstElementChild
    if (!picture?.naturalWidth || !pane) return 1
    return Math.min(pane.clientWidth / picture.naturalWidth, pane.clientHeight / picture.naturalHeight)
  }

  #actual() {
    return Math.max(1.5, 1 / (this.#fitted * devicePixelRatio))
  }

  /** @param {number} scale @param {number} [clientX] @param {number} [clientY] */
  #zoom(scale, clientX, clientY) {
    const next = Math.min(LARGEST, Math.max(1, scale))
    const { x, y } = this.#fraction(clientX, clientY)
    const grown = next / this.#scale
    this.#x = x - (x - this.#x) * grown
    this.#y = y - (y - this.#y) * grown
    this.#scale = next
    this.#place()
  }

  /** A point of the screen as a fraction of the pane that it is in, from its middle. @param {number} [clientX] @param {number} [clientY] */
  #fraction(clientX, clientY) {
    if (clientX === undefined || clientY === undefined) return { x: 0, y: 0 }
    const boxes = [...this.#panes.children].map((pane) => pane.getBoundingClientRect())
    const inside = boxes.find((one) => clientX >= one.left && clientX <= one.right && clientY >= one.top && clientY <= one.bottom)
    const box = inside ?? boxes[0]
    if (!box) return { x: 0, y: 0 }
    return { x: (clientX - box.left) / box.width - 0.5, y: (clientY - box.top) / box.height - 0.5 }
  }

  #place() {
    const most = (this.#scale - 1) / 2
    this.#x = Math.min(most, Math.max(-most, this.#x))
    this.#y = Math.min(most, Math.max(-most, this.#y))
    const moved = `translate(${this.#x * 100}%, ${this.#y * 100}%) scale(${this.#scale})`
    for (const content of /** @type {NodeListOf<HTMLElement>} */ (this.#panes.querySelectorAll('.content'))) {
      if (content.querySelector('img')) content.style.transform = moved
    }
    this.box.classList.toggle('zoomed', this.#scale > 1)
    this.box.classList.toggle('pixels', this.#scale * this.#fitted * devicePixelRatio > 3)
    const at = Number(this.#split.value)
    const second = /** @type {HTMLElement | undefined} */ (this.#panes.children[1])
    if (second) second.style.clipPath = this.box.dataset.mode === 'slider' ? `inset(0 0 0 ${at}%)` : ''
    this.#handle.style.left = `${at}%`
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (/** @type {Element} */ (event.target).closest('pre')) return
    event.preventDefault()
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1
    this.#zoom(this.#scale * Math.exp(-event.deltaY * lines * 0.0016), event.clientX, event.clientY)
  }

  /** @param {PointerEvent} event */
  #pointer(event) {
    if (/** @type {Element} */ (event.target).closest('video, audio, pre, a')) return
    const before = this.#pointers.get(event.pointerId)
    if (event.type === 'pointerdown') {
      if (event.button !== 0) return
      this.#panes.setPointerCapture(event.pointerId)
      this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY })
      return
    }
    if (!before) return
    if (event.type !== 'pointermove') {
      this.#pointers.delete(event.pointerId)
      return
    }
    const now = { x: event.clientX, y: event.clientY }
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1]
    this.#pointers.set(event.pointerId, now)
    if (other) {
      const apart = (/** @type {{ x: number, y: number }} */ one) => Math.hypot(one.x - other.x, one.y - other.y)
      this.#zoom((this.#scale * apart(now)) / Math.max(1, apart(before)), (now.x + other.x) / 2, (now.y + other.y) / 2)
    } else {
      const pane = this.#panes.firstElementChild
      if (!pane) return
      this.#x += (now.x - before.x) / pane.clientWidth
      this.#y += (now.y - before.y) / pane.clientHeight
      this.#place()
    }
  }

  /** @param {PointerEvent} event */
  #drag(event) {
    if (event.type === 'pointerdown') this.#handle.setPointerCapture(event.pointerId)
    else if (event.type === 'pointermove' && this.#handle.hasPointerCapture(event.pointerId)) {
      const box = this.#panes.getBoundingClientRect()
      this.#split.value = String(((event.clientX - box.left) / box.width) * 100)
      this.#place()
    }
  }
}

/** @param {Output} output @returns {Node} */
function look(output) {
  const address = output.file && (output.opens || output.kind === 'image') ? whole(output) : ''
  if (output.kind === 'image' && (address || output.thumbnail)) {
    const picture = document.createElement('img')
    picture.alt = ''
    picture.draggable = false
    picture.addEventListener('error', () => {
      const less = small(output)
      if (less && picture.getAttribute('src') !== less) picture.src = less
    })
    // The small one is there at once.
    picture.src = address || small(output)
    if (address && output.thumbnail) picture.style.backgroundImage = `url("${small(output)}")`
    picture.addEventListener('load', () => (picture.style.backgroundImage = ''), { once: true })
    return picture
  }
  if ((output.kind === 'video' || output.kind === 'audio') && address) {
    const player = /** @type {HTMLMediaElement} */ (document.createElement(output.kind))
    player.controls = player.loop = true
    player.preload = 'metadata'
    player.src = address
    player.addEventListener('error', () => player.replaceWith(about(output, 'This browser cannot play it.')), { once: true })
    return player
  }
  if (output.kind === 'text' && output.text !== undefined) return element('pre', '', output.text || '(empty)')
  return about(output, output.why ?? '')
}

/** @param {Output} output @param {string} why */
function about(output, why) {
  const made = element('div', 'about', element('b', '', baseName(output.file)))
  const said = [output.size ? size(output.size) : '', why].filter(Boolean).join('. ')
  if (said) made.append(element('bdi', '', said))
  if (output.opens) {
    const link = /** @type {HTMLAnchorElement} */ (element('a', '', 'Open the file'))
    link.href = beside(output.file)
    link.target = '_blank'
    link.rel = 'noopener noreferrer'
    made.append(link)
  } else {
    made.append(element('span', '', 'It is in the folder beside this sheet:'), element('code', '', output.file))
  }
  return made
}
