(function () {
  var find = document.getElementById("find"), tools = document.getElementById("tools");
  var codes = Array.prototype.slice.call(document.querySelectorAll("details.code"));
  var count = document.getElementById("found");
  if (!find) { return; }
  tools.hidden = false;
  function filter() {
    var words = find.value.toLowerCase().split(/\s+/).filter(Boolean), left = 0;
    codes.forEach(function (one) {
      var text = one.getAttribute("data-text");
      var has = words.every(function (word) {
        return /^\d+$/.test(word) ? one.id === "code-" + Number(word) || text.indexOf(" " + word + " ") >= 0
          : text.indexOf(word) >= 0;
      });
      one.hidden = !has;
      left += has ? 1 : 0;
    });
    count.textContent = left + " of " + codes.length + " codes";
  }
  function all(open) { codes.forEach(function (one) { if (!one.hidden) { one.open = open; } }); }
  function follow() {
    var one = /^#code-\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (!one) { return; }
    if (one.hidden) { find.value = ""; filter(); }
    one.open = true;
    one.scrollIntoView();
    one.querySelector("summary").focus({ preventScroll: true });
  }
  find.addEventListener("input", filter);
  document.getElementById("open-all").addEventListener("click", function () { all(true); });
  document.getElementById("close-all").addEventListener("click", function () { all(false); });
  window.addEventListener("hashchange", follow);
  filter();
  follow();
})();
