# The image of the node agent: `docker build -t beeline:0.1.0 .`
# Two stages: one with compilers and npm, one with Node, libbpf and what the first made.

FROM node:24-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends clang llvm libbpf-dev linux-libc-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY . .
RUN scripts/build-bpf && scripts/build-bench && node scripts/bundle.ts /opt/beeline

FROM node:24-bookworm-slim
LABEL org.opencontainers.image.title="beeline" \
      org.opencontainers.image.description="An eBPF dataplane for Kubernetes Services: the node agent and its command" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Its own libbpf, never the host's; iptables, nft and conntrack to compare with kube-proxy (`beeline diff`) and for the
# reference mode. npm and its kin are not for a node agent.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libbpf1 libelf1 zlib1g iproute2 iptables nftables conntrack nfacct \
 && rm -rf /var/lib/apt/lists/* \
 && rm -rf /usr/local/lib/node_modules /usr/local/bin/npm /usr/local/bin/npx /usr/local/bin/corepack /usr/local/bin/yarn* /opt/yarn-*
COPY --from=build /opt/beeline /opt/beeline
COPY LICENSE /opt/beeline/
RUN ln -s /opt/beeline/beeline.mjs /usr/local/bin/beeline
ENV NODE_ENV=production
# Root, with the few capabilities that deploy/base/daemonset.yaml gives and explains.
USER root
ENTRYPOINT ["node", "/opt/beeline/beeline.mjs"]
CMD ["run"]
