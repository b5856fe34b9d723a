// The race: bars grow in the page's own time, by the times that stand in the chart.
'use strict';
(() => {
  const charts = [...document.querySelectorAll('[data-race]')];
  const controls = document.querySelector('[data-controls]');
  if (!charts.length || !controls) return;
  controls.hidden = false;
  const play = controls.querySelector('[data-play]');
  const restart = controls.querySelector('[data-restart]');
  const clock = controls.querySelector('[data-clock]');
  const pace = controls.querySelector('[data-pace]');
  const still = matchMedia('(prefers-reduced-motion: reduce)');

  const fast = Number(charts[0].dataset.scale);
  const slowest = Number(charts[0].dataset.slowest);
  const SECONDS = 6e6; // How long a race is watched, in microseconds.
  let scale = fast;
  let now = Infinity; // The race's own time, in microseconds; at its end without bounds.
  let last = null;

  const span = () => scale;
  // All of them run in real time while that can be waited for.
  const speed = () => (scale === slowest && slowest <= 4 * SECONDS ? 1 : span() / SECONDS);
  const written = (us) => (us < 1e3 ? us.toFixed(0) + ' µs' : us < 5e5 ? (us / 1e3).toFixed(us < 1e5 ? 1 : 0) + ' ms'
    : us < 18e7 ? (us / 1e6).toFixed(us < 1e7 ? 2 : 1) + ' s' : (us / 6e7).toFixed(1) + ' min');

  function draw() {
    const time = Math.min(now, span());
    const over = now >= span();
    for (const chart of charts) {
      const width = Number(chart.dataset.width);
      const place = (us) => Math.min(us / scale, 1) * width;
      for (const lane of chart.querySelectorAll('[data-lane]')) {
        const end = Number(lane.dataset.end);
        const there = over || time >= end;
        const far = end > scale;
        lane.querySelector('[data-bar]').setAttribute('width', place(there ? end : time).toFixed(1));
        let reached = '';
        for (const step of lane.querySelectorAll('[data-step]')) {
          const at = Number(step.dataset.step);
          const x = place(at).toFixed(1);
          if (time >= at) reached = step.dataset.name;
          step.setAttribute('x1', x);
          step.setAttribute('x2', x);
          step.setAttribute('visibility', at < scale && (over || time >= at) ? 'visible' : 'hidden');
        }
        lane.querySelector('[data-beyond]').setAttribute('visibility', far && over ? 'visible' : 'hidden');
        const label = lane.querySelector('[data-label]');
        const times = end / scale >= 10 ? (end / scale).toFixed(0) : (end / scale).toFixed(1);
        label.textContent = !there ? (reached ? reached + ' …' : '…')
          : label.dataset.text + (far && width > 500 ? ', ' + times + ' × this width' : '');
      }
      chart.querySelector('[data-axis]').textContent = written(scale);
    }
    clock.textContent = written(time);
    const rate = speed();
    pace.textContent = Math.abs(rate - 1) < 0.05 ? 'in real time'
      : rate < 1 ? 'slowed down ' + (1 / rate).toFixed(0) + ' ×' : 'speeded up ' + rate.toFixed(1) + ' ×';
    play.textContent = last === null ? 'Play' : 'Pause';
  }

  function frame(stamp) {
    if (last === null) return;
    // A frame's stamp may be older than the click that began the race.
    now += Math.max(stamp - last, 0) * 1e3 * speed();
    last = Math.max(stamp, last);
    if (now >= span()) {
      now = Infinity;
      last = null;
    } else {
      requestAnimationFrame(frame);
    }
    draw();
  }

  function run() {
    if (now === Infinity) now = 0;
    last = performance.now();
    requestAnimationFrame(frame);
    draw();
  }

  play.addEventListener('click', () => {
    if (last === null) return run();
    last = null;
    draw();
  });
  restart.addEventListener('click', () => {
    now = 0;
    if (last === null) run();
  });
  const radios = [...controls.querySelectorAll('input[name=scale]')];
  if (slowest <= fast * 1.01) controls.querySelector('fieldset').hidden = true;
  for (const radio of radios) {
    radio.addEventListener('change', () => {
      scale = radios.find((it) => it.checked).value === 'all' ? slowest : fast;
      now = last === null ? Infinity : 0;
      draw();
    });
  }
  // What a browser has kept of an earlier visit.
  scale = radios.find((it) => it.checked).value === 'all' ? slowest : fast;
  draw();

  // It begins by itself when it comes into view, unless nothing shall move.
  if (still.matches || !('IntersectionObserver' in window)) return;
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    if (last === null && now === Infinity) run();
  }, { threshold: 0.6 });
  seen.observe(document.getElementById('race'));
})();
