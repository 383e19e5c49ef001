const states = new WeakMap()
const LIMIT = 16

export default function (component) {
  const { data, parentElement } = component
  const root = parentElement.querySelector(".compare")
  let state = states.get(parentElement)
  if (!state) {
    state = { zoom: 1, x: 0, y: 0, split: 50, images: [], views: [], shape: "" }
    states.set(parentElement, state)
  }
  const find = (selector) => root.querySelector(selector)
  const swipe = data.mode === "swipe"
  root.setAttribute("aria-label", data.panes.map((pane) => pane.label).join(", "))

  const draw = () => {
    const most = state.zoom - 1
    state.x = Math.min(0, Math.max(-most, state.x))
    state.y = Math.min(0, Math.max(-most, state.y))
    for (const image of state.images)
      image.style.transform = `translate(${100 * state.x}%, ${100 * state.y}%) scale(${state.zoom})`
    for (const view of state.views) {
      view.classList.toggle("near", state.zoom >= 2)
      view.classList.toggle("zoomed", state.zoom > 1)
    }
    find(".zoom").textContent = `${Math.round(100 * state.zoom)} %`
    const top = find(".top")
    if (top) {
      top.style.clipPath = `inset(0 0 0 ${state.split}%)`
      find(".line").style.left = `${state.split}%`
      const range = find(".swipe input")
      if (Number(range.value) !== Math.round(state.split)) range.value = Math.round(state.split)
    }
  }
  const zoomTo = (zoom, px = 0.5, py = 0.5) => {
    const next = Math.min(LIMIT, Math.max(1, zoom))
    state.x = px - ((px - state.x) * next) / state.zoom
    state.y = py - ((py - state.y) * next) / state.zoom
    state.zoom = next
    draw()
  }
  const place = (event, view) => {
    const box = view.getBoundingClientRect()
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
  }

  const build = () => {
    const panes = find(".panes")
    panes.replaceChildren()
    state.images = []
    state.views = []
    const groups = swipe ? [data.panes] : data.panes.map((pane) => [pane])
    panes.classList.toggle("one", swipe)
    panes.classList.toggle("four", groups.length === 4)
    for (const group of groups) {
      const figure = document.createElement("figure")
      const view = document.createElement("div")
      view.className = "view"
      view.tabIndex = 0
      view.setAttribute("role", "img")
      view.style.aspectRatio = `${data.width} / ${data.height}`
      if (swipe) view.style.maxWidth = `min(100%, ${data.maxWidth}px)`
      group.forEach((pane, index) => {
        const image = document.createElement("img")
        image.alt = ""
        let parent = view
        if (swipe && index === 1) {
          parent = document.createElement("div")
          parent.className = "top"
          view.append(parent)
        }
        parent.append(image)
        state.images.push(image)
      })
      if (swipe) {
        const line = document.createElement("div")
        line.className = "line"
        line.onpointerdown = (event) => {
          event.stopPropagation()
          event.preventDefault()
          line.setPointerCapture(event.pointerId)
        }
        line.onpointermove = (event) => {
          if (!line.hasPointerCapture(event.pointerId)) return
          state.split = Math.min(100, Math.max(0, 100 * place(event, view)[0]))
          draw()
        }
        view.append(line)
      }
      let from = null
      view.onpointerdown = (event) => {
        if (state.zoom === 1) return
        from = [...place(event, view), state.x, state.y]
        view.setPointerCapture(event.pointerId)
      }
      view.onpointermove = (event) => {
        if (!from) return
        const [px, py] = place(event, view)
        state.x = from[2] + px - from[0]
        state.y = from[3] + py - from[1]
        draw()
      }
      view.onpointerup = view.onpointercancel = () => { from = null }
      view.ondblclick = (event) => zoomTo(state.zoom * 2, ...place(event, view))
      view.onwheel = (event) => {
        if (!event.ctrlKey && !event.metaKey && state.zoom === 1) return
        event.preventDefault()
        zoomTo(state.zoom * Math.exp(-event.deltaY / 400), ...place(event, view))
      }
      view.onkeydown = (event) => {
        const moves = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }
        if (event.key === "+" || event.key === "=") zoomTo(state.zoom * 1.5)
        else if (event.key === "-") zoomTo(state.zoom / 1.5)
        else if (event.key === "0") zoomTo(1)
        else if (moves[event.key] && state.zoom > 1) {
          state.x += moves[event.key][0]
          state.y += moves[event.key][1]
          draw()
        } else return
        event.preventDefault()
      }
      state.views.push(view)
      figure.append(view)
      if (!swipe) figure.append(document.createElement("figcaption"))
      panes.append(figure)
    }
  }

  const shape = `${data.mode} ${data.width} ${data.height} ${data.panes.length}`
  if (state.shape !== shape) {
    if (state.shape.split(" ").slice(1, 3).join() !== shape.split(" ").slice(1, 3).join())
      Object.assign(state, { zoom: 1, x: 0, y: 0 })
    build()
    state.shape = shape
  }
  data.panes.forEach((pane, index) => {
    if (state.images[index].src !== pane.src) state.images[index].src = pane.src
    if (swipe) return
    state.views[index].setAttribute("aria-label", `${pane.label}. ${pane.note}`)
    const caption = find(".panes").children[index].querySelector("figcaption")
    const note = document.createElement("small")
    note.textContent = pane.note
    caption.replaceChildren(pane.label, document.createElement("br"), note)
  })
  if (swipe) state.views[0].setAttribute("aria-label", `${data.panes[0].label} | ${data.panes[1].label}`)

  find(".swipe").hidden = !swipe
  if (swipe) {
    find(".left").textContent = data.panes[0].label
    find(".right").textContent = data.panes[1].label
    find(".swipe input").oninput = (event) => { state.split = Number(event.target.value); draw() }
  }
  find(".in").onclick = () => zoomTo(state.zoom * 1.5)
  find(".out").onclick = () => zoomTo(state.zoom / 1.5)
  find(".fit").onclick = () => zoomTo(1)
  draw()
}
