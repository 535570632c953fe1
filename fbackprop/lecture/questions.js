// Questions that are checked in place: a number, or one of several choices.

function startQuestion(root) {
  const { answer, choices, hint, words, why } = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const outcome = make("p", { class: "outcome", role: "status" });
  const name = newId("question");
  const field = choices
    ? make("div", { class: "choices" }, ...choices.map((text, i) =>
      make("label", {}, make("input", { type: "radio", name, value: i, required: true }), ` ${text}`)))
    : make("input", { type: "text", required: true, autocomplete: "off", "aria-label": words.answer });
  const outcomeOf = () => {
    if (!choices) return judge(field.value, answer);
    return Number(field.querySelector("input:checked").value) === answer ? "right" : "wrong";
  };
  root.append(make("form", { class: "bar", onsubmit: (event) => {
    event.preventDefault();
    const found = outcomeOf() || "wrong"; // Of spaces alone.
    root.dataset.outcome = found;
    outcome.textContent = [words[found], { right: why, wrong: hint }[found]].filter(Boolean).join(": ");
    outcome.scrollIntoView({ block: "nearest" });
  } }, field, make("button", { type: "submit" }, words.check)), outcome);
}

document.querySelectorAll("section.question").forEach(startQuestion);
