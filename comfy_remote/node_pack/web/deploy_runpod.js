// @ts-check
/**
 * Making an endpoint on RunPod, and removing what was made: filled in, shown with its costs, carried
 * out step by step after a yes. The server carries it out, so it goes on if the page is closed.
 */

import { deployFields } from './deploy_fields.js'
import { postOptions, postPlan, postRemoval, postStart, postState } from './deploy_requests.js'
import { costWords, madeWords, noteWords, stepFacts, stepWords, warnings } from './deploy_words.js'
import { button, element, icon } from './dom.js'
import { showNote } from './notices.js'
import { wordsOf } from './remote_api.js'
import { savedWorkflowName } from './vary.js'
import { t } from './words.js'

/** @import { Doing, Made, Options, Plan, Wanted } from './deploy_requests.js' */
/** @import { OpenGraph } from './open_graph.js' */

const POLL_MS = 700

/**
 * @typedef {object} Ways
 * @property {() => void} close
 * @property {(target: string) => void} added  It is made, and a target.
 * @property {(target: string) => void} removed  Its target is removed.
 */

/**
 * What can be made in the account, for the workflow that is open.
 *
 * @param {OpenGraph} graph
 * @param {string | null} key  One that was typed; null for the one that the server knows.
 * @returns {Promise<Options>}
 */
export async function askOptions(graph, key) {
  // A graph that cannot be sent suggests nothing; it keeps nobody from making an endpoint.
  const made = await graph.prompt().catch(() => null)
  return postOptions({ key, workflow: savedWorkflowName(), prompt: made?.output ?? null })
}

/**
 * @param {OpenGraph} graph
 * @param {string} file  That gets the target.
 * @param {Ways} ways
 * @param {{options?: Options, remove?: string}} begin  With what: the form, or the plan of a
 *   removal; by default, with what is under way.
 * @returns {HTMLElement}
 */
export function makeDeployment(graph, file, ways, begin = {}) {
  const problem = element('p', { class: 'comfy-remote-problem', role: 'alert', hidden: true })
  const root = element('section', { class: 'comfy-remote-setup', 'data-kind': 'deploy' })

  /** @param {unknown} error */
  const fail = (error) => {
    problem.hidden = error === null
    problem.textContent = error === null ? '' : wordsOf(error)
    if (error !== null) problem.scrollIntoView({ block: 'nearest' })
  }

  /**
   * Whoever cannot see that it has changed is told so by the focus.
   *
   * @param {string} title
   * @param {(Node | null)[]} parts
   */
  const show = (title, ...parts) => {
    const heading = element('h3', { tabindex: '-1' }, title)
    fail(null)
    root.setAttribute('aria-label', title)
    root.replaceChildren(heading, ...parts.filter((part) => part !== null))
    setTimeout(() => heading.focus())
  }

  /**
   * Do something that takes time; what cannot be pressed twice waits.
   *
   * @param {() => Promise<void>} work
   */
  const busy = async (work) => {
    const buttons = [...root.querySelectorAll('button')]
    for (const one of buttons) one.disabled = true
    root.setAttribute('aria-busy', 'true')
    fail(null)
    try {
      await work()
    } catch (error) {
      fail(error)
    } finally {
      for (const one of buttons) one.disabled = false
      root.setAttribute('aria-busy', 'false')
    }
  }

  /**
   * @param {Options} options
   * @param {Wanted | null} before
   */
  const fillIn = (options, before = null) => {
    const fields = deployFields(options, before)
    const form = element(
      'form',
      { class: 'comfy-remote-setup', novalidate: true, autocomplete: 'off' },
      ...fields.parts,
      problem,
      answers(button({ onclick: ways.close }, t('back')), yes(t('showPlan'), { type: 'submit' }))
    )
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      void busy(() => planFor(fields.values(), () => fillIn(options, fields.values())))
    })
    show(
      t('deployTitle'),
      element('p', { class: 'comfy-remote-foot' }, t('deployHelp')),
      ...options.made.filter(({ asked }) => asked !== null).map(begun),
      form,
      madeHere(options.made.filter(({ asked }) => asked === null))
    )
  }

  /**
   * @param {Wanted} wanted
   * @param {() => void} back
   */
  const planFor = async (wanted, back) => showPlan(await postPlan(wanted), back)

  /**
   * @param {string} name
   * @param {boolean} withVolume
   * @param {() => void} back
   */
  const planRemoval = async (name, withVolume, back) => {
    const plan = await postRemoval(name, withVolume)
    const volume = plan.steps.some((step) => step.kind === 'volume')
    const box = element('input', {
      type: 'checkbox',
      onchange: async () => {
        await busy(() => planRemoval(name, box.checked, back))
        if (box.isConnected) box.checked = withVolume // there is no such plan
      }
    })
    box.checked = withVolume
    const asks = element('label', { class: 'comfy-remote-choice' }, box, t('withVolume'))
    showPlan(plan, back, volume ? asks : null)
  }

  /**
   * @param {Plan} plan
   * @param {() => void} back
   * @param {HTMLElement | null} asks
   */
  const showPlan = (plan, back, asks = null) => {
    const { name, removes } = plan
    const costs = costWords(plan)
    const changes = plan.steps.some(({ does }) => does !== 'leave')
    show(
      t(removes ? 'removalTitle' : 'planTitle', { name }),
      element(
        'ol',
        { class: 'comfy-remote-steps' },
        ...plan.steps.map((step) =>
          element(
            'li',
            {},
            element('strong', {}, stepWords(step)),
            element('ul', {}, ...stepFacts(step, plan.image).map((fact) => element('li', {}, fact)))
          )
        ),
        removes ? null : element('li', { title: file }, element('strong', {}, t('stepTarget', { name, file: baseName(file) })))
      ),
      plan.steps.length === 0 ? element('p', {}, t('onlyOnRecord')) : null,
      costs ? element('p', { class: 'comfy-remote-costs' }, costs) : null,
      ...warnings(plan).map((text) => element('p', { class: 'comfy-remote-advice' }, text)),
      asks,
      problem,
      answers(
        button({ onclick: back }, t('back')),
        yes(t(removes ? 'remove' : changes ? 'makeIt' : 'useIt'), {
          ...(removes ? { class: 'comfy-remote-button' } : {}),
          // The volume alone is there, and stays: there is nothing to say yes to.
          disabled: removes && plan.steps.length > 0 && !changes,
          onclick: () => void busy(async () => showProgress(await postStart(plan.plan)))
        })
      )
    )
  }

  /** @param {Doing} doing */
  const showProgress = (doing) => {
    const said = element('p', { role: 'status' })
    const list = element('ol', { class: 'comfy-remote-checks' })
    const title = t(doing.removes ? 'removingTitle' : 'makingTitle', { name: doing.name })
    show(
      title,
      list,
      said,
      problem,
      element('p', { class: 'comfy-remote-foot' }, t('goesOn')),
      answers(button({ onclick: ways.close }, t('close')))
    )
    /** @param {Doing} now */
    const draw = ({ steps, done }) => {
      list.replaceChildren(...steps.map((step, number) => row(stepWords(step), number - done)))
      const step = steps[done]
      const text = step ? `${done + 1}/${steps.length}: ${stepWords(step)}` : ''
      if (said.textContent !== text) said.textContent = text
    }
    const follow = async () => {
      if (!list.isConnected) return
      try {
        const { now, made } = await postState()
        fail(null)
        // ComfyUI was started again.
        if (now === null) return void (await start())
        draw(now)
        if (now.state === 'done') return done(now)
        // Its endpoint is gone, and the next step has failed.
        if (now.state === 'failed' && now.removes && now.target) ways.removed(now.target)
        if (now.state === 'failed') return failed(now, made.find(({ name }) => name === now.name))
      } catch (error) {
        fail(error) // it may come back
      }
      setTimeout(() => void follow(), POLL_MS)
    }
    draw(doing)
    setTimeout(() => void follow(), POLL_MS)
  }

  /** @param {Doing} now */
  const done = ({ name, removes, target, notes }) => {
    const more = notes.map(noteWords)
    if (removes) {
      showNote(t('isRemoved', { name }), more.join(' '))
      if (target) ways.removed(target)
      ways.close()
    } else if (target) {
      showNote(t('isMade', { name }), [t('isMadeHelp'), ...more].join(' '))
      ways.added(target)
    } else ways.close()
  }

  /**
   * @param {Doing} now
   * @param {Made | undefined} made  What is on record of it.
   */
  const failed = (now, made) => {
    const { name, removes, error } = now
    const again = () => failed(now, made)
    const asked = made?.asked ?? null
    show(
      t(removes ? 'notRemoved' : 'notMade', { name }),
      problem,
      made ? element('p', {}, madeWords(made)) : null,
      answers(
        button({ onclick: ways.close }, t('back')),
        made ? button({ onclick: () => void busy(() => planRemoval(name, false, again)) }, t('removeMade')) : null,
        asked && !removes ? yes(t('goOn'), { onclick: () => void busy(() => planFor(asked, again)) }) : null
      )
    )
    fail(error)
  }

  /**
   * What is not made whole, with the ways to go on.
   *
   * @param {Made} made
   */
  const begun = (made) => {
    const { name, asked } = made
    return element(
      'div',
      { class: 'comfy-remote-condition' },
      element('p', {}, t('interrupted', { name })),
      element('p', {}, madeWords(made)),
      answers(
        button({ onclick: () => void busy(() => planRemoval(name, false, start)) }, t('removeMade')),
        asked ? yes(t('goOn'), { onclick: () => void busy(() => planFor(asked, start)) }) : null
      )
    )
  }

  /** @param {Made[]} made */
  const madeHere = (made) =>
    made.length === 0
      ? null
      : element(
          'details',
          {},
          element('summary', {}, t('madeFromHere')),
          ...made.map((one) =>
            element(
              'div',
              { class: 'comfy-remote-made' },
              element('span', {}, element('strong', {}, one.name), element('small', {}, madeWords(one))),
              button(
                {
                  'aria-label': t('removeNamed', { name: one.name }),
                  onclick: () => void busy(() => planRemoval(one.name, false, start))
                },
                t('remove')
              )
            )
          )
        )

  /** What is under way, else the form. */
  const start = () =>
    busy(async () => {
      const { now, made } = await postState()
      if (now?.state === 'running') return showProgress(now)
      const known = made.find(({ name }) => name === now?.name)
      if (now?.state === 'failed' && !now.removes && known?.asked) return failed(now, known)
      fillIn(await askOptions(graph, null))
    })

  show(
    t('deployTitle'),
    element('p', { role: 'status' }, t('asking')),
    problem,
    answers(button({ onclick: ways.close }, t('back')))
  )
  if (begin.options) fillIn(begin.options)
  else if (begin.remove) {
    const name = begin.remove
    void busy(() => planRemoval(name, false, ways.close))
  } else void start()
  return root
}

/**
 * To remove the endpoint, too, of a target that was made here.
 *
 * @param {string} address  Of the target.
 * @param {(name: string) => void} remove
 * @returns {HTMLElement} Empty for another one.
 */
export function offerRemoval(address, remove) {
  const root = element('div', { class: 'comfy-remote-setup' })
  void postState().then(
    ({ made }) => {
      const ours = made.find(({ endpoint }) => endpoint !== null && address === `runpod:${endpoint}`)
      if (!ours) return
      root.replaceChildren(
        element('p', {}, t('alsoAtRunpod')),
        button({ onclick: () => remove(ours.name) }, t('removeAtRunpod'))
      )
    },
    () => null // the target itself can be removed all the same
  )
  return root
}

/**
 * @param {string} words
 * @param {number} place  Below 0: done; 0: under way; above: waits.
 */
function row(words, place) {
  const [mark, state, style] =
    place < 0
      ? ['check', t('stepDone'), 'ok']
      : place === 0
        ? ['spinner', t('stepNow'), 'skipped']
        : ['minus', t('stepWaits'), 'skipped']
  const symbol = icon(mark)
  symbol.classList.toggle('pi-spin', place === 0)
  return element(
    'li',
    { class: `comfy-remote-check-${style}` },
    symbol,
    element('span', {}, words, element('small', {}, state))
  )
}

/**
 * @param {string} words
 * @param {Parameters<typeof button>[0]} attributes
 */
function yes(words, attributes) {
  return button({ class: 'comfy-remote-button comfy-remote-on', ...attributes }, words)
}

/** @param {string} path  Of the server's machine. */
function baseName(path) {
  return path.split(/[\\/]/).pop() ?? path
}

/** @param {...(HTMLElement | null)} buttons */
function answers(...buttons) {
  return element('div', { class: 'comfy-remote-answers' }, ...buttons)
}
