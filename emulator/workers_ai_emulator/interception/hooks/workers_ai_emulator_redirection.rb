# frozen_string_literal: true

# Redirects a Ruby program's requests from Cloudflare's API to the emulator.
#
# `exec` names this file in RUBYOPT, and its folder in RUBYLIB, so Ruby loads the file before the
# program. Net::HTTP reads no https proxy: also for https, it reads only the variable http_proxy.
#   - If the program has no http proxy, connections to Cloudflare's API hosts go to the address in
#     WORKERS_AI_EMULATOR_TLS_ADDRESS, which is the TLS port of the proxy of `exec`.
#   - If the program has one, it is replaced with the proxy of `exec`, for this process and its
#     children. The proxy of `exec` passes on plain http requests to the replaced proxy.
# The file loads no gem, because a gem's version must agree with the program's Gemfile.
require "socket"

module WorkersAiEmulatorRedirection
  HOSTS = %w[api.cloudflare.com gateway.ai.cloudflare.com].freeze
  PORTS = [443, "443", "https"].freeze
  TARGET = ENV["WORKERS_AI_EMULATOR_TLS_ADDRESS"].to_s.split(":").freeze

  # Takes the arguments of TCPSocket.new and Socket.tcp, which are
  # (host, port, local_host = nil, local_port = nil, **options). Returns those to connect with.
  def self.redirect(arguments)
    host, port = arguments
    name = host.to_s.downcase.chomp(".")
    return arguments unless HOSTS.include?(name) && PORTS.include?(port)

    [*TARGET, *arguments.grep(Hash)]
  end

  # Net::HTTP calls TCPSocket.open or, in Ruby 3.1, Socket.tcp.
  module New
    def initialize(*arguments)
      super(*WorkersAiEmulatorRedirection.redirect(arguments))
    end
    ruby2_keywords(:initialize) if respond_to?(:ruby2_keywords, true)
  end

  module Tcp
    def tcp(*arguments)
      super(*WorkersAiEmulatorRedirection.redirect(arguments))
    end
    ruby2_keywords(:tcp) if respond_to?(:ruby2_keywords, true)
  end
end

unless WorkersAiEmulatorRedirection::TARGET.empty?
  TCPSocket.prepend(WorkersAiEmulatorRedirection::New)
  Socket.singleton_class.prepend(WorkersAiEmulatorRedirection::Tcp)
  proxies = ENV.values_at("http_proxy", "HTTP_PROXY")
  ENV["http_proxy"] = ENV["https_proxy"] unless proxies.join.empty?
end
