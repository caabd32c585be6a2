# Hides how Vagrant creates a container and reaches it over SSH: about 25 lines for each machine. VAGRANT_LOG=info shows
# them.

module Output
  HIDDEN = Regexp.union(
    /Bringing machine '/,
    /docker networks/,
    /Enabling network interfaces/,
    /^\s*(\w+:)?\s*(Name|Image|Volume|Port|Cmd|Container):? /,
    /Container ID|^\s*\w+:\s+\h{12,64}$/,
    /Waiting for machine to boot/,
    /SSH (address|username|auth method):/,
    /Warning: .*Retrying/,
    /[Ii]nsecure (generated )?key|generated public key|Key inserted/,
    /Vagrant will automatically replace|a newly generated keypair/,
    /already provisioned|flag to force provisioning/,
    /Running provisioner: shell|Running: \S*vagrant-shell/,
    /^\s*(\w+:)?\s*$/
  )

  def say(type, message, opts = {})
    super unless %i[detail info output].include?(type) && message.to_s.lines.all? { |line| line.match?(HIDDEN) }
  end
end

Vagrant::UI::Basic.prepend(Output)
