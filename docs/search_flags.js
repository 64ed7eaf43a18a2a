// To the search, a word with a dash in front must not occur. Here it is a flag: `--seed` finds "seed".
document.addEventListener("input", ({ target }) => {
  if (target.matches(".md-search__input")) {
    const words = target.value.replace(/(^|\s)-+/g, "$1");
    if (words !== target.value) target.value = words;
  }
}, true);
