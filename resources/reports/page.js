'use strict';
(() => {
  const report = document.getElementById('report').textContent;

  const download = document.querySelector('[data-download]');
  download.hidden = false;
  download.querySelector('[data-json]').addEventListener('click', () => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([report], { type: 'application/json' }));
    link.download = 'compare.json';
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
})();
