// The page's style sheet, and what of it a figure needs that stands alone in a file.
import { colourRules } from "./looks.ts";

const LIGHT =
  "--page:#fff;--card:#fff;--ink:#16181d;--soft:#565b66;--line:#dfe2e8;--faint:#f3f4f7;--good:75 110 244;--poor:182 83 12;--bad:#b42318;--warn:#fff4e0;--warn-ink:#5c3a00";
const DARK =
  "--page:#14171c;--card:#191d23;--ink:#e8eaef;--soft:#a3a9b5;--line:#333944;--faint:#1f242b;--good:70 130 255;--poor:214 125 45;--bad:#ff8a80;--warn:#3a2c10;--warn-ink:#ffe0a8";

const FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif';

const FIGURE = `
.figure{display:block;max-width:100%;height:auto;font:12px ${FONT};font-variant-numeric:tabular-nums}
.figure text{fill:var(--ink)}
.figure .tick,.figure .panel{fill:var(--soft);font-size:11px}
.figure .panel{font-weight:600}
.figure .grid{stroke:var(--line);stroke-width:1;shape-rendering:crispEdges;fill:none}
.figure .bar{fill:var(--c);opacity:.3}
.figure .median{stroke:var(--c);stroke-width:3;fill:none}
.figure .whisker{stroke:var(--c);stroke-width:1.25;fill:none}
.figure .dots{stroke:var(--c);stroke-width:4;stroke-linecap:round;fill:none;opacity:.85}
.figure .value{font-weight:600;paint-order:stroke;stroke:var(--page);stroke-width:4px;stroke-linejoin:round}
.figure .ceiling{stroke:var(--soft);stroke-width:1.25;stroke-dasharray:2 3;fill:none}
.figure .curve{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round}
.figure .marker{fill:var(--c);stroke:var(--card);stroke-width:1}
.figure .leader{stroke:var(--c);stroke-width:1;fill:none;opacity:.55}
.figure .box{fill:var(--faint);stroke:var(--line)}
.figure .wire{stroke:var(--soft);fill:none;stroke-width:1.5}`;

const scheme = (root: string): string =>
  `${root}{${LIGHT}}${colourRules("light")}@media (prefers-color-scheme:dark){${root}{${DARK}}${colourRules("dark")}}`;

/** Inside an SVG file, which has no page around it. */
export const FIGURE_STYLE = `${scheme("svg")}svg{background:var(--page)}${FIGURE}`;

export const PAGE_STYLE = `
${scheme(":root")}${FIGURE}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 ${FONT};font-variant-numeric:tabular-nums}
main{max-width:1224px;margin:0 auto;padding:40px 24px 64px}
h1,h2,h3,p,figure,dl,dd,ul{margin:0;padding:0}
h2{font-size:24px;line-height:1.25;letter-spacing:-.01em;margin-bottom:8px}
h3{font-size:16px;line-height:1.3}
section{margin-top:56px}
a{color:inherit;text-decoration-color:var(--line);text-underline-offset:3px}
a:hover{text-decoration-color:currentColor}
small{font-size:12px;color:var(--soft);font-weight:400}
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere;background:var(--faint);padding:1px 5px;border-radius:4px}
.eyebrow{font-size:13px;font-weight:600;color:var(--soft);margin-bottom:10px}
.lead{font-size:19px;line-height:1.45;max-width:52em;text-wrap:pretty}
.machine,.note{color:var(--soft);max-width:62em;text-wrap:pretty}
.machine{margin-top:10px;font-size:14px}
.note{font-size:14px;margin:8px 0 16px}
.answer{font-size:19px;line-height:1.45;font-weight:600;max-width:46em;text-wrap:pretty;margin-bottom:16px}
.banner{background:var(--warn);color:var(--warn-ink);border-radius:8px;padding:12px 16px;margin-bottom:16px}
.banner ul{padding-left:20px}
.banner summary{color:inherit}
.bad{color:var(--bad)}
.mode::before{content:"";display:inline-block;width:9px;height:9px;border-radius:50%;background:var(--c);margin-right:7px}
.figures{white-space:nowrap}
table{border-collapse:collapse;text-align:left}
th{font-weight:600}
thead th{font-size:12.5px;color:var(--soft);font-weight:600;vertical-align:bottom;padding:6px 14px 6px 0}
td,tbody th{padding:9px 14px 9px 0;border-top:1px solid var(--line);vertical-align:top}
th small,.ratios td small{display:block}
.wide-table{overflow-x:auto}
.behind{width:100%}
.behind ul{list-style:none}
.behind li+li{margin-top:4px}
.behind .times{display:inline-block;margin-left:12px}
.unsure{margin:4px 0 16px;font-size:14px}
.ratios{font-size:14px}
.ratios td,.ratios thead th{padding:7px 12px;text-align:right;white-space:nowrap}
.ratios thead th{white-space:normal;min-width:96px}
.ratios thead td{border:0}
.ratios tbody td{border-left:2px solid var(--page)}
.ratios tbody th{padding-right:20px;min-width:180px}
.ratios .none,.ratios .base{color:var(--soft)}
.up1{background:rgb(var(--good)/.1)}.up2{background:rgb(var(--good)/.2)}.up3{background:rgb(var(--good)/.34)}
.down1{background:rgb(var(--poor)/.12)}.down2{background:rgb(var(--poor)/.24)}.down3{background:rgb(var(--poor)/.4)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,564px),1fr));gap:40px 48px;margin-top:24px}
.card{min-width:0;border-top:2px solid var(--ink);padding-top:10px}
.card .unit{color:var(--soft);font-size:13px;margin-bottom:10px}
.at-phone{display:none}
figcaption{font-size:13px;line-height:1.5;color:var(--soft);margin-top:8px;max-width:60em}
details{margin-top:8px;font-size:13px}
summary{cursor:pointer;color:var(--soft);width:fit-content}
.values{margin-top:6px;white-space:nowrap}
.values td,.values th,.proofs td,.proofs th{padding:4px 14px 4px 0}
.values td:nth-child(n+2){text-align:right}
.values thead th:nth-child(n+2){text-align:right}
.proofs{font-size:14px;min-width:760px}
.proofs th small{max-width:38em}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:24px 48px;margin:12px 0 32px}
.topology{margin-top:16px}
dl{font-size:14px}
dt{font-weight:600}
dd{color:var(--soft);margin-bottom:10px}
.missing{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,3fr);gap:4px 24px;margin-top:8px}
.missing dd{margin:0}
footer{margin-top:56px;font-size:13px;color:var(--soft)}
@media (max-width:660px){
main{padding:24px 16px 48px}
section{margin-top:44px}
.lead,.answer{font-size:17px}
.at-desk{display:none}.at-phone{display:block}
.behind thead{display:none}
.behind tr{display:block;border-top:1px solid var(--line);padding:10px 0}
.behind th,.behind td{display:block;border:0;padding:2px 0}
.behind .times{display:block;margin-left:16px}
.ratios tbody th{position:sticky;left:0;background:var(--page);min-width:128px;max-width:128px;padding-right:10px}
.missing{grid-template-columns:1fr}.missing dd{margin-bottom:8px}
}
@media print{
:root{${LIGHT}}${colourRules("light")}
@page{margin:14mm}
body{font-size:11px}main{max-width:none;padding:0}
section{margin-top:24px}h2{font-size:17px}.lead,.answer{font-size:14px}.machine,.note,dl,figcaption{font-size:10.5px}
.at-desk,.card details{display:none}details::details-content{content-visibility:visible;height:auto}.at-phone{display:block}
.cards{grid-template-columns:1fr 1fr;gap:20px 16px}
.card,tr,.columns{break-inside:avoid}h2,h3{break-after:avoid}
.ratios,.proofs{font-size:9px;min-width:0}.ratios td,.ratios thead th{padding:3px 4px;min-width:0;font-size:9px}.ratios small,.proofs small{font-size:7.5px}.proofs td,.proofs th{padding:1px 8px 1px 0}.ratios tbody th{min-width:0;padding-right:6px}
.wide-table{overflow:visible}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
`;
