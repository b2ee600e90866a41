// @ts-check
/** The fields of a new endpoint at RunPod: filled in to begin with, so that one may say yes at once. */

import { dollars } from './amounts.js'
import { element } from './dom.js'
import { t } from './words.js'

/** @import { Gpu, Options, Use, Wanted } from './deploy_requests.js' */

const NEW = '\0new'
const MOST_NAMED = 3
/** @type {Record<Use, keyof import('./words.js').Words>} */
const USES = { 'a few an hour': 'useFew', nights: 'useNights', steady: 'useSteady' }

/**
 * @param {Options} options
 * @param {Wanted | null} before  What was filled in already.
 * @returns {{parts: HTMLElement[], values: () => Wanted}}
 */
export function deployFields(options, before) {
  const { suggested } = options
  const name = field({ value: before?.name ?? suggested.name, maxlength: '48' })
  const gpus = gpuFields(options, before?.gpus ?? [])
  const use = choice(
    options.uses.map((one) => [one.use, t(USES[one.use])]),
    before?.use ?? options.uses[0].use
  )
  const image = field({ value: before?.image ?? '', placeholder: options.image })
  const registry = choice(
    [['', t('registryNone')], ...options.registries.map(({ id, name: called }) => /** @type {[string, string]} */ ([id, called]))],
    before?.registry ?? ''
  )
  const workers = number({ value: text(before?.max_workers), min: '1' })
  const idle = number({ value: text(before?.idle), min: '1', max: '3600' })
  const volume = volumeFields(options, gpus.chosen, before?.volume ?? '')
  gpus.root.addEventListener('change', volume.showCenters)

  const useHelp = help(use)
  const showUse = () => {
    const usual = options.uses.find((one) => one.use === use.value)
    useHelp.textContent = usual ? useWords(usual) : ''
    workers.placeholder = text(usual?.workers)
    idle.placeholder = text(usual?.idle)
    idle.disabled = usual?.idle === null // RunPod takes none there
    if (idle.disabled) idle.value = ''
  }
  use.addEventListener('change', showUse)
  showUse()
  const more = [before?.image, before?.max_workers, before?.idle].some(Boolean)
  return {
    parts: [
      labelled(t('deployName'), name),
      gpus.root,
      labelled(t('deployUse'), use),
      useHelp,
      ...volume.parts,
      element(
        'details',
        { open: more },
        element('summary', {}, t('moreDeploy')),
        labelled(t('imageLabel'), image),
        options.registries.length > 0 ? labelled(t('registryLabel'), registry) : null,
        labelled(t('maxWorkersLabel'), workers),
        labelled(t('idleLabel'), idle)
      )
    ],
    values: () => ({
      name: name.value.trim(),
      gpus: gpus.values(),
      memory: before?.memory ?? suggested.memory,
      models: before?.models ?? suggested.models,
      use: /** @type {Use} */ (use.value),
      volume: volume.value(),
      image: image.value.trim(),
      registry: registry.value,
      max_workers: valueOf(workers),
      idle: valueOf(idle)
    })
  }
}

/**
 * @param {Options} options
 * @param {string[]} before
 */
function gpuFields({ gpus, suggested }, before) {
  const chosen = before.length > 0 ? before : suggested.gpus
  const boxes = gpus.map((gpu) => {
    const box = element('input', { type: 'checkbox', value: gpu.name })
    box.checked = chosen.includes(gpu.name)
    return { gpu, box }
  })
  const root = element('fieldset', { class: 'comfy-remote-gpus' })
  const why = help(root)
  why.textContent = t(suggested.by_workflow ? 'gpuByWorkflow' : 'gpuUsual', { gb: Math.max(suggested.memory, 16) })
  root.append(
    element('legend', {}, t('gpu')),
    why,
    element(
      'div',
      { class: 'comfy-remote-gpu-list' },
      ...boxes.map(({ gpu, box }) =>
        element('label', {}, box, element('span', {}, gpu.name, element('small', {}, gpuWords(gpu))))
      )
    )
  )
  const checked = () => boxes.filter(({ box }) => box.checked).map(({ gpu }) => gpu)
  return {
    root,
    /** @returns {Gpu[]} */
    chosen: checked,
    /** As they were suggested, the server chooses: it prefers the quickest. @returns {string[]} */
    values: () => {
      const names = checked().map((gpu) => gpu.name)
      const same = names.length === suggested.gpus.length && suggested.gpus.every((one) => names.includes(one))
      return same ? [] : names
    }
  }
}

/**
 * @param {Options} options
 * @param {() => Gpu[]} gpus  That are chosen.
 * @param {string} before
 */
function volumeFields({ centers, volumes, suggested }, gpus, before) {
  const [size, at] = before.includes('@') ? before.split('@') : ['', '']
  const which = choice(
    [
      ['', t('volumeNone')],
      ...(centers.length > 0 ? [/** @type {[string, string]} */ ([NEW, t('volumeNew')])] : []),
      ...volumes.map((one) => /** @type {[string, string]} */ ([one.id, t('volumeThere', one)]))
    ],
    size ? NEW : before
  )
  const gb = number({ value: size || String(suggested.volume_size), min: '10', max: '4096' })
  const center = element('select', {})
  const fresh = element(
    'div',
    { class: 'comfy-remote-setup', hidden: true },
    labelled(t('volumeSize'), gb),
    labelled(t('volumeCenter'), center)
  )
  const about = help(which)

  const showCenters = () => {
    const wanted = center.value || at
    /** @param {string} id */
    const freeIn = (id) => gpus().filter((gpu) => gpu.centers.includes(id)).map((gpu) => gpu.name)
    // Where most of them are free, and where files can be sent to.
    const ranked = centers.map(({ id, s3 }) => ({ id, s3, free: freeIn(id) }))
    ranked.sort((one, other) => other.free.length - one.free.length || Number(other.s3) - Number(one.s3))
    center.replaceChildren(
      ...ranked.map(({ id, s3, free }) => {
        const key = free.length > 0 ? 'centerFree' : 'centerNotFree'
        const words = t(key, { center: id, gpus: free.slice(0, MOST_NAMED).join(', ') })
        return element('option', { value: id }, s3 ? words : t('centerNoUpload', { text: words }))
      })
    )
    if (centers.some(({ id }) => id === wanted)) center.value = wanted
  }
  const show = () => {
    fresh.hidden = which.value !== NEW
    about.textContent = t(
      which.value === '' ? 'volumeNoneHelp' : which.value === NEW ? 'volumeHelp' : 'volumeThereHelp'
    )
  }
  which.addEventListener('change', show)
  showCenters()
  show()
  return {
    parts: [labelled(t('volumeLabel'), which), about, fresh],
    showCenters,
    value: () => (which.value === NEW ? `${gb.value.trim()}@${center.value}` : which.value)
  }
}

/** @param {Gpu} gpu */
function gpuWords({ memory, price, free }) {
  const facts = price === null ? t('gpuNoPrice', { memory }) : t('gpuFacts', { memory, price: dollars(price) })
  return free === false ? t('gpuNotFree', { text: facts }) : facts
}

/** @param {Options['uses'][number]} one */
function useWords({ idle, workers }) {
  return t(idle === null ? 'useFactsSteady' : 'useFacts', { count: workers, idle: idle ?? '' })
}

/** @param {Record<string, string>} attributes */
function field(attributes) {
  return element('input', { type: 'text', spellcheck: 'false', autocomplete: 'off', ...attributes })
}

/** @param {Record<string, string>} attributes */
function number(attributes) {
  return element('input', { type: 'number', step: '1', autocomplete: 'off', ...attributes })
}

/**
 * @param {[string, string][]} options  Values and words.
 * @param {string} chosen
 */
function choice(options, chosen) {
  const made = element('select', {}, ...options.map(([value, words]) => element('option', { value }, words)))
  if (options.some(([value]) => value === chosen)) made.value = chosen
  return made
}

/**
 * @param {string} words
 * @param {HTMLElement} control
 */
function labelled(words, control) {
  return element('label', { class: 'comfy-remote-caption' }, words, control)
}

let helps = 0

/**
 * A line below a field, which screen readers say with it.
 *
 * @param {HTMLElement} control
 */
function help(control) {
  const id = `comfy-remote-help-${++helps}`
  control.setAttribute('aria-describedby', id)
  return element('p', { id, class: 'comfy-remote-foot' })
}

/** @param {number | null | undefined} value */
function text(value) {
  return value === null || value === undefined ? '' : String(value)
}

/** @param {HTMLInputElement} control */
function valueOf(control) {
  return control.value.trim() === '' ? null : Number(control.value)
}
