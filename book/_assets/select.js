// Choices: what does not fit them is hidden, and they stand in the address (page.html#verdict=refuted), so that a view
// can be linked to. Without this script everything is shown, and the form is not.
document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.nc-select");
  if (!form) return;
  const choices = [...form.querySelectorAll("select")];
  const items = [...document.querySelectorAll("[data-item]")].map((mark) => ({
    ...JSON.parse(mark.dataset.item), // its answer to each question that it depends on, and what it says
    place: mark.matches("tr") ? mark : mark.closest("section"),
  }));
  const tables = [...new Set(items.map((item) => item.place).filter((place) => place.matches("tr")).map((row) => row.closest("table")))];

  function choose() {
    const chosen = choices.filter((choice) => choice.value);
    const fits = items.filter((item) => {
      const all = chosen.every(({ name, value }) => !(name in item.facets) || item.facets[name].includes(value));
      item.place.hidden = !all;
      return all;
    });
    for (const table of tables) table.closest("section").hidden = [...table.tBodies[0].rows].every((row) => row.hidden);
    tell(fits, chosen.length > 0);
    const address = new URLSearchParams(chosen.map(({ name, value }) => [name, value])).toString();
    const anchor = location.hash.includes("=") ? "" : location.hash;
    history.replaceState(null, "", address ? `#${address}` : anchor || location.pathname.split("/").at(-1));
  }

  function tell(fits, any) {
    const output = form.querySelector("output");
    const said = fits.filter((item) => item.says);
    if (!any) output.replaceChildren();
    else if (!fits.length) output.textContent = form.dataset.none;
    else if (!said.length) output.textContent = `${fits.length} of ${items.length} ${form.dataset.what}`;
    else {
      const list = document.createElement("ul");
      list.append(...said.map((item) => {
        const [line, link] = [document.createElement("li"), document.createElement("a")];
        [link.href, link.textContent] = [`#${item.place.id}`, item.title];
        line.append(link, `: ${item.says}`);
        return line;
      }));
      output.replaceChildren(list);
    }
  }

  function read() {
    if (!location.hash.includes("=")) return;
    const given = new URLSearchParams(location.hash.slice(1));
    for (const choice of choices) choice.value = given.get(choice.name) ?? "";
    choose();
  }

  form.hidden = false;
  form.addEventListener("change", choose);
  form.addEventListener("reset", () => setTimeout(choose));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", read);
  read();
});
