export default function (component) {
  const { data, parentElement } = component
  const place = parentElement.querySelector("p")
  let removed = false
  let permission = null

  const say = (text) => {
    if (!removed && place.textContent !== text) place.textContent = text
  }

  const look = async () => {
    const devices = navigator.mediaDevices
    if (!devices?.enumerateDevices) return say(data.insecure)
    if (permission?.state === "denied") return say(data.refused)
    const found = await devices.enumerateDevices().catch(() => [])
    say(found.some((device) => device.kind === "videoinput") ? "" : data.none)
  }

  const start = async () => {
    try {
      permission = await navigator.permissions.query({ name: "camera" })
      permission.addEventListener("change", look)
    } catch {
      permission = null // a browser without this query: only the devices are known
    }
    await look()
  }

  start()
  navigator.mediaDevices?.addEventListener?.("devicechange", look)
  return () => {
    removed = true
    permission?.removeEventListener("change", look)
    navigator.mediaDevices?.removeEventListener?.("devicechange", look)
  }
}
