// A figure of Plotly's that is drawn over the one before it. Streamlit's own element begins anew with every change, draws
// it twice, and hears of no click on a cell of a heat map.
const loaded = (address) => window.Plotly ?? new Promise((done, failed) => {
    // Put there at the explorer's start, for whoever opens that first (`starting.load_in_browser`).
    let script = document.getElementById("plotly-script");
    if (!script) {
        const first = document.querySelector('script[type="module"][src*="static/js/"]');
        script = document.createElement("script");
        Object.assign(script, { id: "plotly-script", src: new URL(address, first.src).href });
        document.head.append(script);
    }
    script.addEventListener("load", () => done(window.Plotly));
    script.addEventListener("error", failed);
});

// Pixels of a picture that the cameras above a figure save.
const SAVED = { width: 1400, height: 700 };

const isWhole = (plot) => document.fullscreenElement === plot;

const size = (plot, height) => isWhole(plot)
    ? { width: window.innerWidth, height: window.innerHeight }
    : { width: plot.parentElement.clientWidth, height };

const configuration = (Plotly) => {
    const camera = (format, scale) => ({
        name: format,
        title: `Download as ${format}`,
        icon: Plotly.Icons.camera,
        click: (plot) => Plotly.downloadImage(plot, { ...SAVED, format: format.toLowerCase(), scale }),
    });
    const whole = {
        name: "Fullscreen",
        title: "Fullscreen",
        icon: Plotly.Icons.autoscale,
        click: (plot) => isWhole(plot) ? document.exitFullscreen() : plot.requestFullscreen(),
    };
    return {
        displaylogo: false,
        // A button that sends the figure to Plotly's own service.
        showSendToCloud: false,
        plotlyServerURL: "",
        modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d"],
        modeBarButtonsToAdd: [camera("SVG", 1), camera("PNG", 2), whole],
    };
};

// Plotly draws its buttons anew when it likes.
const nameButtons = (plot) => {
    for (const button of plot.querySelectorAll(".modebar-btn[data-title^='Download as']:not([data-format])")) {
        button.dataset.format = button.dataset.title.split(" ").pop();
        button.setAttribute("aria-label", button.dataset.title);
        button.append(button.dataset.format);
    }
};

const tell = (plot, points) => {
    const point = points.find((one) => one.data.type === "heatmap") ?? points[0];
    const { x, y, customdata, curveNumber, pointNumber } = point;
    plot.tell({ points: [{ x, y, customdata, curve_number: curveNumber, point_number: pointNumber }] });
};

// What room is kept for: drawn over with other margins or colour bars, a figure keeps the room of those before, too.
const roomOf = ({ margin, height, ...layout }, data) => {
    const bars = [...Object.values(layout), ...data].map((part) => part?.colorbar).filter(Boolean);
    return JSON.stringify([margin, height, bars.map(({ orientation, x, y, len }) => [orientation, x, y, len])]);
};

const draw = async (plot) => {
    const wanted = plot.wanted;
    const Plotly = await loaded(wanted.plotly);
    // Plotly ends in an exception where a figure goes that it still draws.
    await Promise.allSettled([plot.drawing]);
    if (plot.wanted !== wanted || plot.drawn === wanted || !plot.parentElement?.clientWidth) return;
    plot.drawn = wanted;
    const { data, layout } = JSON.parse(wanted.figure);
    plot.ownHeight = layout.height;
    plot.configuration ??= configuration(Plotly);
    Object.assign(layout, size(plot, layout.height));
    if (wanted.clickable) Object.assign(layout, { hovermode: "closest", dragmode: "pan" });
    const room = roomOf(layout, data);
    if (plot._fullLayout && plot.room !== room) Plotly.purge(plot);
    plot.room = room;
    const isFirst = !plot._fullLayout;
    await (plot.drawing = Plotly.react(plot, data, layout, plot.configuration));
    plot.setAttribute("role", "figure");
    plot.setAttribute("aria-label", layout.meta.label);
    nameButtons(plot);
    if (isFirst) {
        plot.on("plotly_afterplot", () => nameButtons(plot));
        plot.on("plotly_click", ({ points }) => plot.wanted.clickable && tell(plot, points));
    }
};

const fit = (plot) => {
    const now = plot._fullLayout, fitting = size(plot, plot.ownHeight);
    // What came while there was no room, in a tab or a fold that was closed, waits for it.
    if (plot.drawn !== plot.wanted) draw(plot);
    else if (now && fitting.width && (fitting.width !== now.width || fitting.height !== now.height))
        plot.drawing = window.Plotly.relayout(plot, fitting);
};

const begin = (parent) => {
    const plot = document.createElement("div");
    parent.append(plot);
    parent.observer = new ResizeObserver(() => fit(plot));
    parent.observer.observe(parent);
    plot.addEventListener("fullscreenchange", () => fit(plot));
    return plot;
};

export default ({ data, parentElement, setTriggerValue }) => {
    const plot = parentElement.plot ??= begin(parentElement);
    const tell = (selection) => setTriggerValue("selection", selection);
    Object.assign(plot, { wanted: data, tell });
    plot.style.minHeight = `${data.height}px`;
    draw(plot);
    return async () => {
        // Streamlit also ends a call that was not yet answered when the next one came, whose figure stays.
        if (plot.tell !== tell) return;
        parentElement.observer.disconnect();
        parentElement.plot = undefined;
        plot.remove();
        await Promise.allSettled([plot.drawing]);
        if (plot._fullLayout) window.Plotly.purge(plot);
    };
};
