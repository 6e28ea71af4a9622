"""Style of the report: one sheet for screen, phone and paper, light and dark; colour is never the only carrier."""

from typing import Final

STYLE: Final = """
:root{--ink:#1c2024;--soft:#5b646e;--paper:#fff;--panel:#f5f6f8;--rule:#d9dde2;--link:#1f4e79;
--green:#d8f0dc;--green-ink:#0f5a26;--amber:#fdeabf;--amber-ink:#6b4700;--red:#fbd9d5;--red-ink:#8f1710;
--grey:#e9ebee;--grey-ink:#48515b;
--c0:#1f5fa8;--c1:#c2540a;--c2:#2f7d32;--c3:#8e3b9e;--c4:#8a6500;--c5:#00757d}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3adb8;--paper:#15181b;--panel:#1e2226;--rule:#363d44;
--link:#8fbdf0;--green:#14401f;--green-ink:#b5edc2;--amber:#4d3a05;--amber-ink:#ffe0a0;--red:#571b17;--red-ink:#ffc9c4;
--grey:#2b3137;--grey-ink:#c3cad1;--c0:#7db4f2;--c1:#ff9d5c;--c2:#7ed083;--c3:#d99be6;--c4:#e0bd55;--c5:#5fcdd6}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:68rem;padding:1.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25;margin:0}h2{font-size:1.25rem;margin:2.6rem 0 .6rem;line-height:1.3}
h3{font-size:1rem;margin:1.4rem 0 .4rem}p{margin:.4rem 0}a{color:var(--link)}
.soft,figcaption,.legend{color:var(--soft)}.small{font-size:.875rem}code{font-size:.875em}
header .lead{font-size:1.05rem;margin:.5rem 0 0}
.verdict{display:inline-block;border-radius:.3rem;padding:.05rem .5rem;font-weight:600;font-size:.875rem;white-space:nowrap}
h1 .verdict{font-size:1.1rem;vertical-align:.15rem;margin-right:.4rem}h2 .verdict{vertical-align:.1rem;margin-left:.3rem}
.green,.PASS{background:var(--green);color:var(--green-ink)}.amber,.INCONCLUSIVE{background:var(--amber);color:var(--amber-ink)}
.red,.FAIL,.ERROR{background:var(--red);color:var(--red-ink)}.grey,.N-A,.none{background:var(--grey);color:var(--grey-ink)}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.1rem;margin:1rem 0;font-size:.9375rem}
dl.facts dt{color:var(--soft)}dl.facts dd{margin:0;overflow-wrap:anywhere}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(14rem,1fr));gap:.75rem;margin:1rem 0}
.answers section{border-radius:.5rem;padding:.7rem .9rem}.answers h3{margin:0 0 .2rem;font-size:.95rem}
.answers ul{margin:0;padding-left:1.1rem;font-size:.9375rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th{text-align:left;font-weight:600}thead th{color:var(--soft);font-weight:500;font-size:.8125rem;vertical-align:bottom}
th,td{padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
td.number{font-variant-numeric:tabular-nums;white-space:nowrap}
.matrix{border-collapse:separate;border-spacing:3px;min-width:30rem}
.matrix th{border:0;padding:.35rem .5rem .35rem 0}.matrix thead th{text-align:center}.matrix thead th:first-child{text-align:left}
.matrix tbody th{min-width:12rem;width:45%}
.matrix .why{display:block;font-weight:400;font-size:.8125rem;color:var(--soft);line-height:1.35}
.matrix td{border:0;border-radius:.35rem;text-align:center;vertical-align:middle;padding:.4rem .3rem;min-width:4.2rem;
font-weight:600;line-height:1.2;overflow-wrap:normal}
.matrix td .mark{display:block;font-size:1.05rem}.matrix td .word{font-size:.8125rem}
.matrix td .gap{display:block;font-weight:400;font-size:.72rem}
.key{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;list-style:none;padding:0;margin:.6rem 0;font-size:.875rem}
.key span{border-radius:.25rem;padding:.05rem .45rem;font-weight:600;margin-right:.35rem;white-space:nowrap}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--link)}details ul{margin:.3rem 0;padding-left:1.2rem;font-size:.9rem}
.bar{display:inline-block;position:relative;width:5.5rem;height:.55rem;border:1px solid var(--soft);border-radius:.2rem;
overflow:hidden;vertical-align:middle;margin-right:.5rem}
td.margin{white-space:nowrap}.bar i{position:absolute;inset:0 auto 0 0;background:var(--soft)}
article{border-top:2px solid var(--rule);margin-top:2.2rem}article h2{margin-top:1rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1rem;margin:1rem 0}
figure{margin:0;background:var(--panel);border-radius:.5rem;padding:.7rem .7rem .5rem;break-inside:avoid;max-width:36rem}
figure>svg{display:block;width:100%;height:auto}figcaption{font-size:.875rem;margin-top:.3rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.2rem 0 0;padding:0;font-size:.8125rem}
.legend svg{vertical-align:-1px}
svg text{fill:var(--ink);font-size:12px;font-family:inherit}svg text.label{font-size:13px;fill:var(--soft)}
.grid{stroke:var(--rule);stroke-width:1}.frame{fill:none;stroke:var(--soft);stroke-width:1}
.curve{fill:none;stroke-width:1.8;stroke-linejoin:round}.dots{fill:none;stroke-width:5;stroke-linecap:round}.crosses{fill:none;stroke-width:1.6}
.squares{fill:none;stroke-width:5;stroke-linecap:square}.bars{fill:none;stroke-width:1}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}
.reference{stroke:var(--soft);stroke-dasharray:6 4}.limit{stroke:var(--red-ink);stroke-dasharray:2 4;stroke-width:2}
footer{margin-top:3rem;border-top:1px solid var(--rule);color:var(--soft);font-size:.875rem}
@media(max-width:40rem){body{padding:1rem .8rem 3rem}h1{font-size:1.3rem}
dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:.35rem}
.stack thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.stack,.stack tbody{display:block}.stack tr{display:block;border-bottom:1px solid var(--rule);padding:.5rem 0}
.stack td,.stack th{display:block;border:0;padding:.06rem 0;white-space:normal;overflow-wrap:anywhere}
.stack td{position:relative;padding-left:6rem;min-height:1.4rem}.stack td:empty{display:none}
.stack td::before{content:attr(data-label);color:var(--soft);position:absolute;left:0;font-size:.8125rem;padding-top:.1rem}
.matrix{min-width:0}.matrix tbody th{min-width:0;width:auto;display:block;padding-bottom:.1rem}
.matrix,.matrix tbody{display:block}.matrix thead{display:none}
.matrix tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(4.6rem,1fr));gap:3px;padding:.4rem 0}
.matrix tbody th{grid-column:1/-1}.matrix td{min-width:0}
.matrix td::before{content:attr(data-label);display:block;font-weight:400;font-size:.72rem}}
@media print{:root{--ink:#000;--soft:#444;--paper:#fff;--panel:#fff;--rule:#bbb;--green:#d8f0dc;--green-ink:#0f5a26;
--amber:#fdeabf;--amber-ink:#6b4700;--red:#fbd9d5;--red-ink:#8f1710;--grey:#e9ebee;--grey-ink:#48515b;
--c0:#1f5fa8;--c1:#c2540a;--c2:#2f7d32;--c3:#8e3b9e;--c4:#8a6500;--c5:#00757d}
body{max-width:none;font-size:10pt;padding:0;-webkit-print-color-adjust:exact;print-color-adjust:exact}
details::details-content{content-visibility:visible;block-size:auto}
tr,figure{break-inside:avoid}h2,h3{break-after:avoid}.matrix td{outline:1px solid #999}}
"""
